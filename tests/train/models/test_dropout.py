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


def test_nothing_changes_without_training_or_a_share() -> None:
    x = torch.ones(10)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
