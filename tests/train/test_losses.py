"""Each loss against a reference written out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from train.losses import in_batch_softmax, sampled_softmax

SCORES = [[0.9, 0.1, -0.3, 0.5], [0.2, 0.4, 0.8, 0.1], [-0.5, 0.3, 0.6, 0.7]]
POSITIVE = [0, 2, 1]  # column of each query's own item; column 3 is a hard negative
SAME = [[True, False, True, False], [False, False, True, False], [False, True, False, True]]


def in_batch(scores: Tensor, temperature: float) -> Tensor:
    return in_batch_softmax(scores, torch.tensor(POSITIVE), torch.tensor(SAME), temperature)


def sampled(scores: Tensor, gamma: float) -> Tensor:
    return sampled_softmax(scores[:, 0], scores[:, 1:], gamma)


def gradient(loss: Callable[[Tensor, float], Tensor], factor: float) -> Tensor:
    scores = torch.tensor(SCORES, requires_grad=True)
    loss(scores, factor).sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    return scores.grad


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_in_batch_softmax(temperature: float) -> None:
    expected = []
    for row, own, same in zip(SCORES, POSITIVE, SAME, strict=True):
        negatives = [n for n in range(4) if n == own or not same[n]]
        total = sum(math.exp(row[n] / temperature) for n in negatives)
        expected.append(-math.log(math.exp(row[own] / temperature) / total))
    found = in_batch(torch.tensor(SCORES, dtype=torch.float64), temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_sampled_softmax(gamma: float) -> None:
    expected = [
        -math.log(math.exp(gamma * row[0]) / sum(math.exp(gamma * score) for score in row)) for row in SCORES
    ]
    found = sampled(torch.tensor(SCORES, dtype=torch.float64), gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("loss", [in_batch, sampled])
def test_the_factor_changes_loss_and_gradient(loss: Callable[[Tensor, float], Tensor]) -> None:
    scores = torch.tensor(SCORES)
    assert not torch.allclose(loss(scores, 0.5), loss(scores, 2.0))
    assert not torch.allclose(gradient(loss, 0.5), gradient(loss, 2.0))


def test_another_positive_of_the_query_is_not_pushed_away() -> None:
    found = gradient(in_batch, 0.1)
    other = torch.tensor(SAME)
    other[range(3), POSITIVE] = False
    assert (found[other] == 0).all()
    assert (found[range(3), POSITIVE] < 0).all()
    assert (found[~torch.tensor(SAME)] > 0).all()


def test_with_every_other_item_masked_there_is_nothing_to_learn() -> None:
    scores = torch.tensor([[0.3, 0.9]])
    found = in_batch_softmax(scores, torch.tensor([0]), torch.tensor([[True, True]]), 0.1)
    assert found.item() == 0


def test_no_loss_overflows() -> None:
    scores = torch.tensor([[-1.0, 1.0, 1.0, 1.0]] * 3)
    assert torch.isfinite(in_batch(scores, 1e-3)).all()
    assert torch.isfinite(sampled(scores, 1e3)).all()
