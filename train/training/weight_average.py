"""A moving average of the weights, which is evaluated and kept instead of the weights themselves.

While the learning rate is high, the weights move around a minimum, so on a small validation set chance
decides which epoch is the best. Their average is closer to the minimum than the weights of a single step
(Polyak and Juditsky 1992). It is exponential here, as in Tarvainen and Valpola 2017: each step adds
(w - average) / window. The window is a number of epochs, but never more than a tenth of the steps done.

The average of a parameter is part of its state in the optimiser, so checkpoints hold it, and a device has it
beside the parameter. torch's `AveragedModel` would be a module apart from all that.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

AVERAGE = "average"  # key in the state of a parameter
LARGEST_WINDOW = 0.1  # as a share of the steps done


@torch.no_grad()
def update_average(optimiser: torch.optim.Optimizer, window: float, steps: int) -> None:
    """Include the weights after a step in the average; those after the first step begin it.

    Args:
        window: of the average, in steps.
    """
    step_weight = 1 / max(1.0, min(window, LARGEST_WINDOW * steps))
    averages, weights = list[Tensor](), list[Tensor]()
    for parameter in _trained(optimiser):
        state = optimiser.state[parameter]
        if AVERAGE in state:
            averages.append(state[AVERAGE])
            weights.append(parameter)
        else:
            state[AVERAGE] = parameter.detach().clone()
    if averages:
        update = get_ema_multi_avg_fn(1 - step_weight)  # type: ignore[no-untyped-call]
        update(averages, weights, steps)


@torch.no_grad()
def exchange_average(optimiser: torch.optim.Optimizer) -> None:
    """Put the averages in the place of the weights, and these in the place of the averages.

    Where there is no average, nothing changes.
    """
    for parameter in _trained(optimiser):
        average = optimiser.state[parameter].get(AVERAGE)
        if average is not None:
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)


def _trained(optimiser: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """The parameters of which the optimiser has a state: those that had a gradient."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            if optimiser.state.get(parameter):
                yield parameter
