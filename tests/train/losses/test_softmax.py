"""Each softmax loss against a reference written out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from train.config.losses import Correction
from train.losses.softmax import full_softmax, in_batch_softmax, sampled_softmax

SCORES = [[0.9, 0.1, -0.3, 0.5], [0.2, 0.4, 0.8, 0.1], [-0.5, 0.3, 0.6, 0.7]]
POSITIVE = [0, 2, 1]  # column of each query's own item; column 3 is a hard negative
SAME = [[True, False, True, False], [False, False, True, False], [False, True, False, True]]
LOG_Q = [-0.5, -3.0, -1.0, -2.0]
CORRECTIONS: list[Correction] = ["logq", "khrylchenko"]
Loss = Callable[[Tensor, float], Tensor]


def in_batch(scores: Tensor, temperature: float) -> Tensor:
    return in_batch_softmax(scores, torch.tensor(POSITIVE), torch.tensor(SAME), temperature)


def corrected(scores: Tensor, temperature: float, correction: Correction) -> Tensor:
    log_q = torch.tensor(LOG_Q, dtype=scores.dtype)
    return in_batch_softmax(
        scores, torch.tensor(POSITIVE), torch.tensor(SAME), temperature, correction, log_q
    )


def logq(scores: Tensor, temperature: float) -> Tensor:
    return corrected(scores, temperature, "logq")


def khrylchenko(scores: Tensor, temperature: float) -> Tensor:
    return corrected(scores, temperature, "khrylchenko")


def full(scores: Tensor, temperature: float) -> Tensor:
    return full_softmax(scores, torch.tensor(POSITIVE), torch.tensor(SAME), temperature)


def smoothed(scores: Tensor, temperature: float) -> Tensor:
    return full_softmax(scores, torch.tensor(POSITIVE), torch.tensor(SAME), temperature, 0.2)


def sampled(scores: Tensor, gamma: float) -> Tensor:
    return sampled_softmax(scores[:, 0], scores[:, 1:], gamma)


ALL: list[Loss] = [in_batch, logq, khrylchenko, full, smoothed, sampled]
SOFTMAXES: list[Loss] = ALL[:4]  # whose gradient has the sign that tells positives from negatives


def gradient(loss: Loss, factor: float) -> Tensor:
    scores = torch.tensor(SCORES, requires_grad=True)
    loss(scores, factor).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    return scores.grad


def by_hand(
    temperature: float, taken_off: Callable[[int, int], float], smoothing: float = 0.0
) -> list[float]:
    """Masked cross-entropy in plain Python; `taken_off(column, own)` is subtracted from a score."""
    losses = []
    for row, own, same in zip(SCORES, POSITIVE, SAME, strict=True):
        logits = {n: row[n] / temperature - taken_off(n, own) for n in range(4) if n == own or not same[n]}
        total = sum(math.exp(logit) for logit in logits.values())
        losses_of_items = {n: -math.log(math.exp(logit) / total) for n, logit in logits.items()}
        mean = sum(losses_of_items.values()) / len(losses_of_items)
        losses.append((1 - smoothing) * losses_of_items[own] + smoothing * mean)
    return losses


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize(
    ("loss", "taken_off", "smoothing"),
    [
        (in_batch, lambda column, own: 0.0, 0.0),
        (logq, lambda column, own: LOG_Q[column], 0.0),
        (khrylchenko, lambda column, own: 0.0 if column == own else LOG_Q[column], 0.0),
        (full, lambda column, own: 0.0, 0.0),
        (smoothed, lambda column, own: 0.0, 0.2),
    ],
    ids=["in_batch", "logq", "khrylchenko", "full", "smoothed"],
)
def test_softmax(
    loss: Loss, taken_off: Callable[[int, int], float], smoothing: float, temperature: float
) -> None:
    found = loss(torch.tensor(SCORES, dtype=torch.float64), temperature)
    np.testing.assert_allclose(found, by_hand(temperature, taken_off, smoothing), rtol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_sampled_softmax(gamma: float) -> None:
    expected = [
        -math.log(math.exp(gamma * row[0]) / sum(math.exp(gamma * score) for score in row)) for row in SCORES
    ]
    found = sampled(torch.tensor(SCORES, dtype=torch.float64), gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_khrylchenkos_gradient_is_that_of_the_papers_weighted_loss() -> None:
    def as_written(scores: Tensor, temperature: float) -> Tensor:
        rows = []
        for row, own, same in zip(scores / temperature, POSITIVE, SAME, strict=True):
            z = sum(torch.exp(row[n] - LOG_Q[n]) for n in range(4) if not same[n])
            weight = 1 - row[own].exp() / (row[own].exp() + z)
            rows.append(-weight.detach() * (row[own] - torch.log(torch.as_tensor(z))))
        return torch.stack(rows)

    for temperature in (0.2, 1.0):
        torch.testing.assert_close(gradient(khrylchenko, temperature), gradient(as_written, temperature))


@pytest.mark.parametrize("loss", ALL)
def test_the_factor_changes_loss_and_gradient(loss: Loss) -> None:
    scores = torch.tensor(SCORES)
    assert not torch.allclose(loss(scores, 0.5), loss(scores, 2.0))
    assert not torch.allclose(gradient(loss, 0.5), gradient(loss, 2.0))


@pytest.mark.parametrize("loss", ALL)
def test_the_gradient_is_that_of_small_steps(loss: Loss) -> None:
    scores = torch.tensor(SCORES, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, 0.7), scores)


def test_smoothing_and_corrections_change_the_loss() -> None:
    scores = torch.tensor(SCORES)
    losses = [loss(scores, 0.5) for loss in (full, smoothed, logq, khrylchenko)]
    for n, one in enumerate(losses):
        assert not any(torch.allclose(one, other) for other in losses[n + 1 :])


@pytest.mark.parametrize("loss", SOFTMAXES)
def test_other_positives_of_the_query_have_no_gradient(loss: Loss) -> None:
    found = gradient(loss, 0.1)
    other = torch.tensor(SAME)
    other[range(3), POSITIVE] = False
    assert (found[other] == 0).all()
    assert (found[range(3), POSITIVE] < 0).all()
    assert (found[~torch.tensor(SAME)] > 0).all()


def test_without_known_positives_nothing_is_masked() -> None:
    scores, positive = torch.tensor(SCORES), torch.tensor(POSITIVE)
    found = full_softmax(scores, positive, None, 0.5, 0.1)
    torch.testing.assert_close(found, full_softmax(scores, positive, torch.zeros(3, 4).bool(), 0.5, 0.1))
    expected = torch.nn.functional.cross_entropy(2 * scores, positive, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(found, expected)


def test_the_loss_is_zero_where_every_other_item_is_masked() -> None:
    scores, positive, same = torch.tensor([[0.3, 0.9]]), torch.tensor([0]), torch.tensor([[True, True]])
    log_q = torch.tensor([-1.0, -2.0])
    assert in_batch_softmax(scores, positive, same, 0.1).item() == 0
    for correction in CORRECTIONS:
        assert in_batch_softmax(scores, positive, same, 0.1, correction, log_q).item() == 0
    assert full_softmax(scores, positive, same, 0.1, 0.3).item() == 0


@pytest.mark.parametrize(("constant", "changes"), [("logq", False), ("khrylchenko", True)])
def test_only_khrylchenkos_correction_depends_on_a_constant_in_log_q(
    constant: Correction, changes: bool
) -> None:
    scores, positive, same = torch.tensor(SCORES), torch.tensor(POSITIVE), torch.tensor(SAME)
    one, two = (
        in_batch_softmax(scores, positive, same, 1.0, constant, torch.tensor(LOG_Q) + shift)
        for shift in (0.0, 3.0)
    )
    assert torch.allclose(one, two) != changes


def test_a_correction_and_its_log_q_go_together() -> None:
    scores, positive, same = torch.tensor(SCORES), torch.tensor(POSITIVE), torch.tensor(SAME)
    with pytest.raises(ValueError, match="'logq' does not go with log_q None"):
        in_batch_softmax(scores, positive, same, 1.0, "logq")
    with pytest.raises(ValueError, match="'none' does not go with log_q"):
        in_batch_softmax(scores, positive, same, 1.0, log_q=torch.tensor(LOG_Q))


@pytest.mark.parametrize("loss", ALL)
def test_no_loss_overflows(loss: Loss) -> None:
    scores = torch.tensor([[-1.0, 1.0, 1.0, 1.0]] * 3)
    assert torch.isfinite(loss(scores, 1e3 if loss is sampled else 1e-3)).all()
