"""Adam with a learning rate for each kind of parameter, warm-up and cosine decay, and a moving average.

A moving average of the weights can be evaluated and kept instead of the weights themselves. While the
learning rate is high, the weights move around a minimum, so on a small validation set chance decides which
epoch is the best. Their average is closer to the minimum than the weights of a single step (Polyak and
Juditsky 1992). It is exponential here, as in Tarvainen and Valpola 2017: each step adds
(w - average) / window. The window is a number of epochs, but never more than a tenth of the steps done.

The average of a parameter is part of its state in the optimiser, so checkpoints hold it, and a device has it
beside the parameter. torch's `AveragedModel` would be a module apart from all that.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.towers import Tower

WEIGHTS_FACTOR = 30.0  # a weight of an n-gram is of size 1 to 3; entries of matrices are far smaller
WARM_UP = 0.05  # of all steps
AVERAGE = "average"  # key in the state of a parameter
LARGEST_WINDOW = 0.1  # as a share of the steps done


def adam(
    towers: Sequence[Tower],
    learning_rate: float,
    weight_decay: float = 0.0,
    weights_factor: float = WEIGHTS_FACTOR,
) -> torch.optim.Optimizer:
    """Adam over towers; a shared table is one parameter.

    With weight decay it is AdamW, which takes a share of all parameters with two or more dimensions away in
    each step: of matrices, and of tables of embeddings, also of rows that no pair of the step has. Click
    towers hold the biases of features in a column of these tables, so they decay, too. Parameters with one
    dimension or none do not, such as the biases of layers.

    A table that starts as a random projection has entries of size 1 / sqrt(D), and its step is scaled
    likewise. Second moments are averaged over about 50 steps, because epochs here are short. The fused kernel
    reads and writes each table once in a step, and takes a tenth of the time of torch's default on a CPU.

    Args:
        weights_factor: of the learning rate of the weights of n-grams.
    """
    tables: dict[nn.Parameter, None] = {}
    weights: dict[nn.Parameter, None] = {}
    for tower in towers:
        for module in tower.modules():
            if isinstance(module, HashedTextEncoder) and isinstance(module.weights, nn.Parameter):
                weights[module.weights] = None
                if not module.from_scratch:
                    tables[module.table] = None
    plain = {
        parameter: None
        for tower in towers
        for parameter in tower.parameters()
        if parameter.requires_grad and not any(parameter in each for each in (tables, weights))
    }
    groups: list[dict[str, Any]] = [{"params": list(plain), "lr": learning_rate}]
    if tables:
        width = next(iter(tables)).shape[1]
        groups.append({"params": list(tables), "lr": learning_rate / math.sqrt(width)})
    if weights:
        groups.append({"params": list(weights), "lr": learning_rate * weights_factor})
    if weight_decay:
        groups = [  # parameters of two or more dimensions with weight decay, the others without
            {**group, "params": parameters, "weight_decay": weight_decay if is_matrix else 0.0}
            for group in groups
            for is_matrix in (True, False)
            if (parameters := [each for each in group["params"] if (each.ndim > 1) == is_matrix])
        ]
    for group in groups:
        group["peak"] = group["lr"]
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    return with_dense_gradients(kind(groups, betas=(0.9, 0.98), fused=True))


def with_dense_gradients(optimiser: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let an optimiser that takes dense gradients alone, such as Adam, step with sparse ones.

    Before a step the rows are written into a dense tensor, which is kept: a new one in each step would take
    longer than all else that the step does with a large table.
    """
    kept: dict[Tensor, tuple[Tensor, Tensor]] = {}  # the dense gradients, and their written rows

    def fill(*_: Any) -> None:
        for table in (each for group in optimiser.param_groups for each in group["params"]):
            if table.grad is None or not table.grad.is_sparse:
                continue
            if table not in kept:
                kept[table] = torch.zeros_like(table, requires_grad=False), table.new_empty(0).long()
            dense, written = kept[table]
            dense[written] = 0
            written = table.grad._indices()[0]
            table.grad = dense.index_add_(0, written, table.grad._values())
            kept[table] = dense, written

    optimiser.register_step_pre_hook(fill)
    return optimiser


def set_learning_rate(
    optimiser: torch.optim.Optimizer, epochs_done: float, epochs: int, epoch_steps: int
) -> float:
    """Linear warm-up, then a cosine down to zero at the end; returns the share of the peak.

    Args:
        epochs_done: of `epochs`, with the part of the one under way.
        epoch_steps: steps in an epoch; it may differ a little from epoch to epoch.
    """
    done = min(1.0, epochs_done / epochs)
    warm_up = max(WARM_UP, 1 / (epochs * epoch_steps))
    rise = min(1.0, (done + 1 / (epochs * epoch_steps)) / warm_up)
    share = rise * 0.5 * (1 + math.cos(math.pi * done))
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share
    return share


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
