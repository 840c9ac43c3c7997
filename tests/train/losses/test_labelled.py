"""The loss of labelled pairs against a reference in plain Python."""

import math

import numpy as np
import torch

from twinspire.train.losses.objectives import labelled_bce

LOGITS = [0.9, -0.4, 2.0]
LABELS = [1.0, 0.0, -1.0]  # a data set's negatives may be 0 or below


def logits() -> torch.Tensor:
    return torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)


def test_labelled_bce() -> None:
    expected = [
        -math.log(1 / (1 + math.exp(-logit if label > 0 else logit)))
        for logit, label in zip(LOGITS, LABELS, strict=True)
    ]
    found = labelled_bce(logits(), torch.tensor(LABELS))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-9)


def test_no_loss_overflows() -> None:
    far = torch.tensor([-500.0, 500.0, 500.0], requires_grad=True)
    found = labelled_bce(far, torch.tensor(LABELS))
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(found).all()
    assert far.grad is not None
    assert torch.isfinite(far.grad).all()
