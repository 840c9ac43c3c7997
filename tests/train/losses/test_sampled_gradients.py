"""The mean gradient of sampled softmax losses over many draws, compared with the full softmax.

Errors are relative to the norm of the full gradient. With 4000 draws their noise is below 0.02; asserted
margins are several times that.
"""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from twinspire.train.config.losses import Correction
from twinspire.train.losses.sampling import mixed_log_q
from twinspire.train.losses.softmax import full_softmax, in_batch_softmax

ITEMS = 20
DRAWS = 4000
SHARE = 1 / np.arange(1, ITEMS + 1) ** 1.2
SHARE /= SHARE.sum()
SCORES = torch.from_numpy(np.random.default_rng(0).normal(size=ITEMS))
OWN = [0, 3, 10, 19]  # from the most to the least popular item
TEMPERATURE = 0.8
Errors = dict[Correction, float]


def mean_gradient(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """(ITEMS,): mean gradient of the loss over DRAWS equal rows of scores."""
    scores = SCORES.expand(DRAWS, ITEMS).clone().requires_grad_()
    loss(scores).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    return scores.grad.mean(dim=0)


def compare(own: int, loss: Callable[[Correction, Tensor], Tensor], known: Tensor | None = None) -> Errors:
    """Correction -> relative error; `loss` takes the correction and the rows of scores."""
    positive = torch.full((DRAWS,), own)
    full = mean_gradient(lambda scores: full_softmax(scores, positive, known, TEMPERATURE))
    corrections: list[Correction] = ["none", "logq"]
    found = {each: mean_gradient(functools.partial(loss, each)) for each in corrections}
    return {each: float((found[each] - full).norm() / full.norm()) for each in corrections}


def batch_errors(own: int, batch: int, uniform: int, known: tuple[int, ...] = ()) -> Errors:
    """Errors where candidates are the distinct items of a batch; items in none of its pairs are masked."""
    generator = np.random.default_rng((own, batch, uniform))
    present = np.zeros((DRAWS, ITEMS), bool)
    np.put_along_axis(present, generator.choice(ITEMS, (DRAWS, batch - 1), p=SHARE), True, axis=1)
    if uniform:
        np.put_along_axis(present, generator.integers(0, ITEMS, (DRAWS, uniform)), True, axis=1)
    seen = torch.zeros(DRAWS, ITEMS, dtype=torch.bool)
    seen[:, list(known)] = True
    same = torch.from_numpy(~present) | seen
    positive = torch.full((DRAWS,), own)
    log_q = torch.from_numpy(mixed_log_q(SHARE, batch - 1, uniform, ITEMS)).double()

    def loss(correction: Correction, scores: Tensor) -> Tensor:
        given = None if correction == "none" else log_q
        return in_batch_softmax(scores, positive, same, TEMPERATURE, given)

    return compare(own, loss, seen)


def sampled_errors(own: int, count: int) -> Errors:
    """Errors where candidates are the own item and `count` drawn ones, one column for each draw."""
    others = np.where(np.arange(ITEMS) == own, 0, SHARE) / (1 - SHARE[own])
    items = np.random.default_rng(own).choice(ITEMS, (DRAWS, count), p=others)
    columns = torch.cat([torch.full((DRAWS, 1), own), torch.from_numpy(items)], dim=1)
    positive, same = torch.zeros(DRAWS, dtype=torch.int64), columns == own
    of_draws = torch.from_numpy(np.log(SHARE[items] / (1 - SHARE[own])))
    log_q = torch.cat([torch.full((DRAWS, 1), np.log(SHARE[own])), of_draws], dim=1)
    expected = log_q + np.log(count)

    def loss(correction: Correction, scores: Tensor) -> Tensor:
        given = None if correction == "none" else expected
        return in_batch_softmax(scores.gather(1, columns), positive, same, TEMPERATURE, given)

    return compare(own, loss)


@pytest.mark.parametrize("own", OWN[:-1])
def test_in_batch(own: int) -> None:
    small, large = batch_errors(own, 8, 0), batch_errors(own, 32, 0)
    assert small["logq"] < 0.9 * small["none"]
    assert large["logq"] < 0.5 * large["none"]
    assert large["logq"] < 0.08


def test_a_rare_positive_gets_too_much_weight() -> None:
    errors = [batch_errors(OWN[-1], batch, 0) for batch in (8, 16, 32)]
    assert all(each["logq"] > each["none"] for each in errors)
    assert errors[2]["logq"] < 0.6 * errors[0]["logq"]  # less so in a larger batch


@pytest.mark.parametrize("own", OWN[:-1])
def test_mixed_with_uniform_negatives(own: int) -> None:
    errors = batch_errors(own, 8, 8)
    assert errors["logq"] < 0.08
    assert errors["logq"] < 0.7 * errors["none"]
    assert errors["logq"] < 0.5 * batch_errors(own, 8, 0)["logq"]


def test_known_positives_are_masked_in_both() -> None:
    errors = batch_errors(3, 32, 0, known=(0, 5))
    assert errors["logq"] < 0.08
    assert errors["logq"] < 0.6 * errors["none"]


@pytest.mark.parametrize("own", OWN)
def test_drawn_from_the_catalogue(own: int) -> None:
    few, many = sampled_errors(own, 8), sampled_errors(own, 256)
    assert many["none"] > 0.15  # more draws do not help
    assert many["logq"] < 0.4 * many["none"]
    assert many["logq"] < 0.6 * few["logq"]
