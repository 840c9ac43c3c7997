"""A moving average of the weights, which is evaluated and kept instead of the weights themselves.

The weights of single steps lie around a better place, and which epoch is the best by a small validation
set is then largely chance. Their average is close to that place (Polyak and Juditsky 1992), also while the
learning rate is high. It is exponential here, as in Tarvainen and Valpola 2017: each step adds
(w - average) / window, where the window grows to a number of epochs and is never more than a tenth of the
steps done.

The average of a parameter is part of its state in the optimiser, so checkpoints and shared memory hold it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

AVERAGE = "average"  # key in the state of a parameter
LARGEST_SHARE = 0.1  # of all steps done so far in the window


@torch.no_grad()
def update_average(optimiser: torch.optim.Optimizer, window: float, steps: int) -> None:
    """Include the weights of a step in the average; those of the first step begin it.

    Args:
        optimiser: after the step.
        window: of the average, in steps.
        steps: done so far.
    """
    share = 1 / max(1.0, min(window, LARGEST_SHARE * steps))
    averages, weights = list[Tensor](), list[Tensor]()
    for parameter in _trained(optimiser):
        state = optimiser.state[parameter]
        if AVERAGE in state:
            averages.append(state[AVERAGE])
            weights.append(parameter)
        else:
            state[AVERAGE] = parameter.detach().clone()
    if averages:
        torch._foreach_lerp_(averages, weights, share)


@torch.no_grad()
def exchange_average(optimiser: torch.optim.Optimizer) -> None:
    """Put the averages in the place of the weights, and these in the place of the averages.

    Both keep their memory, which other processes may share. Where there is no average, nothing changes.
    """
    for parameter in _trained(optimiser):
        average = optimiser.state[parameter].get(AVERAGE)
        if average is not None:
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)


def _trained(optimiser: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """The parameters that have had a gradient."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            if optimiser.state.get(parameter):
                yield parameter
