"""Each pairwise loss against a reference in plain Python."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from twinspire.train.losses.pairwise import bce, bpr, labelled_bce

POSITIVE = [0.9, -0.4, 2.0]
NEGATIVES = [[0.1, 1.3], [-0.8, 0.2], [1.9, -3.0]]
KNOWN = [[False, True], [False, False], [True, True]]  # the last query has no negatives
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def positive() -> Tensor:
    return torch.tensor(POSITIVE, dtype=torch.float64, requires_grad=True)


def negatives() -> Tensor:
    return torch.tensor(NEGATIVES, dtype=torch.float64, requires_grad=True)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cross_entropy(logit: float, label: int) -> float:
    return -math.log(sigmoid(logit) if label else 1 - sigmoid(logit))


def by_hand(term: Callable[[float, float], float], masked: bool) -> list[float]:
    """The mean of term(positive, negative) over the negatives that count, in loops."""
    losses = []
    for own, others, known in zip(POSITIVE, NEGATIVES, KNOWN, strict=True):
        terms = [term(own, other) for other, drop in zip(others, known, strict=True) if not (masked and drop)]
        losses.append(sum(terms) / len(terms) if terms else 0.0)
    return losses


def mask(masked: bool) -> Tensor | None:
    return torch.tensor(KNOWN) if masked else None


@pytest.mark.parametrize("masked", [False, True])
def test_bce(masked: bool) -> None:
    expected = []
    for own, others, known in zip(POSITIVE, NEGATIVES, KNOWN, strict=True):
        counted = [other for other, drop in zip(others, known, strict=True) if not (masked and drop)]
        expected.append(cross_entropy(own, 1) + sum(cross_entropy(other, 0) for other in counted))
    found = bce(positive(), negatives(), mask(masked))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-9)


def test_labelled_bce() -> None:
    labels = [1.0, 0.0, -1.0]  # a data set's negatives may be 0 or below
    expected = [cross_entropy(logit, int(label > 0)) for logit, label in zip(POSITIVE, labels, strict=True)]
    found = labelled_bce(positive(), torch.tensor(labels))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_bpr(masked: bool) -> None:
    expected = by_hand(lambda own, other: -math.log(sigmoid(own - other)), masked)
    found = bpr(positive(), negatives(), mask(masked))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-9)


ALL: list[Loss] = [bce, bpr]
NAMES = ["bce", "bpr"]


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
def test_the_gradient_is_that_of_small_steps(loss: Loss) -> None:
    assert torch.autograd.gradcheck(
        lambda own, others: loss(own, others, torch.tensor(KNOWN)), (positive(), negatives())
    )


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
def test_the_gradient_raises_the_own_score_and_lowers_the_others(loss: Loss) -> None:
    own, others = torch.zeros(3, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    known = torch.tensor(KNOWN)
    loss(own, others, known).sum().backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None
    assert others.grad is not None
    assert (own.grad[:2] < 0).all()
    assert (others.grad[~known] > 0).all()
    assert (others.grad[known] == 0).all()


@pytest.mark.parametrize("loss", ALL, ids=NAMES)
def test_no_loss_overflows(loss: Loss) -> None:
    own, others = torch.tensor([-500.0], requires_grad=True), torch.tensor([[500.0, -500.0]])
    found = loss(own, others, None)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(found).all()
    assert own.grad is not None
    assert torch.isfinite(own.grad).all()
