"""Each softmax loss against a reference written out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from twinspire.train.losses.objectives import full_softmax, in_batch_softmax, sampled_softmax

SCORES = [[0.9, 0.1, -0.3, 0.5], [0.2, 0.4, 0.8, 0.1], [-0.5, 0.3, 0.6, 0.7]]
POSITIVE = [0, 2, 1]  # column of each query's own item; column 3 is a hard negative
SAME = [[True, False, True, False], [False, False, True, False], [False, True, False, True]]
LOG_Q = [-0.5, -3.0, -1.0, -2.0]
Loss = Callable[[Tensor, float], Tensor]


def in_batch(scores: Tensor, temperature: float) -> Tensor:
    return in_batch_softmax(scores, torch.tensor(POSITIVE), torch.tensor(SAME), temperature)


def logq(scores: Tensor, temperature: float) -> Tensor:
    log_q = torch.tensor(LOG_Q, dtype=scores.dtype)
    return in_batch_softmax(scores, torch.tensor(POSITIVE), torch.tensor(SAME), temperature, log_q)


def full(scores: Tensor, temperature: float) -> Tensor:
    return full_softmax(scores, torch.tensor(POSITIVE), torch.tensor(SAME), temperature)


def sampled(scores: Tensor, gamma: float) -> Tensor:
    return sampled_softmax(scores[:, 0], scores[:, 1:], gamma)


SOFTMAXES: list[Loss] = [in_batch, logq, full]
ALL: list[Loss] = [*SOFTMAXES, sampled]


def gradient(loss: Loss, factor: float) -> Tensor:
    scores = torch.tensor(SCORES, requires_grad=True)
    loss(scores, factor).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    return scores.grad


def by_hand(temperature: float, taken_off: list[float]) -> list[float]:
    """Masked cross-entropy in plain Python; `taken_off` of its column is subtracted from a score."""
    losses = []
    for row, own, same in zip(SCORES, POSITIVE, SAME, strict=True):
        logits = {n: row[n] / temperature - taken_off[n] for n in range(4) if n == own or not same[n]}
        total = sum(math.exp(logit) for logit in logits.values())
        losses.append(-math.log(math.exp(logits[own]) / total))
    return losses


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize(
    ("loss", "taken_off"),
    [(in_batch, [0.0] * 4), (logq, LOG_Q), (full, [0.0] * 4)],
    ids=["in_batch", "logq", "full"],
)
def test_softmax(loss: Loss, taken_off: list[float], temperature: float) -> None:
    found = loss(torch.tensor(SCORES, dtype=torch.float64), temperature)
    np.testing.assert_allclose(found, by_hand(temperature, taken_off), rtol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_sampled_softmax(gamma: float) -> None:
    expected = [
        -math.log(math.exp(gamma * row[0]) / sum(math.exp(gamma * score) for score in row)) for row in SCORES
    ]
    found = sampled(torch.tensor(SCORES, dtype=torch.float64), gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("loss", ALL)
def test_the_factor_changes_loss_and_gradient(loss: Loss) -> None:
    scores = torch.tensor(SCORES)
    assert not torch.allclose(loss(scores, 0.5), loss(scores, 2.0))
    assert not torch.allclose(gradient(loss, 0.5), gradient(loss, 2.0))


@pytest.mark.parametrize("loss", SOFTMAXES)
def test_other_positives_of_the_query_have_no_gradient(loss: Loss) -> None:
    found = gradient(loss, 0.1)
    other = torch.tensor(SAME)
    other[range(3), POSITIVE] = False
    assert (found[other] == 0).all()
    assert (found[range(3), POSITIVE] < 0).all()
    assert (found[~torch.tensor(SAME)] > 0).all()


def test_the_loss_is_zero_where_every_other_item_is_masked() -> None:
    scores, positive, same = torch.tensor([[0.3, 0.9]]), torch.tensor([0]), torch.tensor([[True, True]])
    log_q = torch.tensor([-1.0, -2.0])
    assert in_batch_softmax(scores, positive, same, 0.1).item() == 0
    assert in_batch_softmax(scores, positive, same, 0.1, log_q).item() == 0
    assert full_softmax(scores, positive, same, 0.1).item() == 0


@pytest.mark.parametrize("loss", ALL)
def test_no_loss_overflows(loss: Loss) -> None:
    scores = torch.tensor([[-1.0, 1.0, 1.0, 1.0]] * 3)
    assert torch.isfinite(loss(scores, 1e3 if loss is sampled else 1e-3)).all()
