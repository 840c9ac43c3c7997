"""Dropout for towers that train on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

FUSED = ("cuda", "mps")  # devices where one kernel draws, drops and scales


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Set a random share of the elements to 0, and scale the others (Srivastava et al. 2014, section 10).

    As `torch.nn.functional.dropout`, with other random numbers. That function draws a Bernoulli number for
    each element, which takes three times as long on a CPU as the uniform numbers that are drawn here.

    Args:
        x: of any shape; in bfloat16 the share is met to 1/256.
        share: 0 to below 1.
        training: without it, and with a share of 0, the result is `x` itself.
    """
    if not training or not share:
        return x
    if x.device.type in FUSED:
        return F.dropout(x, share)
    return x * torch.rand_like(x).ge_(share).mul_(1 / (1 - share))
