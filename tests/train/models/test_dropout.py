"""Dropout drops the share that it is given, and keeps the mean."""

import pytest
import torch

from twinspire.train.models.sequence_encoders import dropout


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_share_is_dropped_and_the_rest_is_scaled(share: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(200_000, requires_grad=True)
    found = dropout(x, share, True)
    dropped = found == 0
    assert dropped.float().mean().item() == pytest.approx(share, abs=0.005)
    torch.testing.assert_close(found[~dropped], torch.full_like(found[~dropped], 1 / (1 - share)))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, found.detach())


def test_elements_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(100_000, 2), 0.3, True) == 0).float()
    assert (dropped[:, 0] * dropped[:, 1]).mean().item() == pytest.approx(0.09, abs=0.004)
    assert (dropped[1:, 0] * dropped[:-1, 0]).mean().item() == pytest.approx(0.09, abs=0.004)


def test_the_seed_decides() -> None:
    x, found = torch.ones(1000), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(dropout(x, 0.5, True))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_nothing_changes_without_training_or_a_share() -> None:
    x = torch.ones(10)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
