"""Adam with a learning rate for each kind of parameter, warm-up and cosine decay."""

import math

import torch
from torch import nn

from train.models.encoders import HashedTextEncoder
from train.models.pretrained.encoder import PretrainedTextEncoder
from train.models.towers import Tower

WEIGHTS_FACTOR = 30.0  # a weight of an n-gram is of size 1 to 3; entries of matrices are far smaller
PRETRAINED_FACTOR = 0.02  # the usual 2e-5 for fine-tuning at the default learning rate of 1e-3
WARM_UP = 0.05  # of all steps


def adam(towers: tuple[Tower, Tower], learning_rate: float) -> torch.optim.Adam:
    """Adam over both towers; a shared table is one parameter.

    A table that starts as a random projection has entries of size 1 / sqrt(D), and its step is scaled
    likewise. A pretrained encoder would forget what it knows at the rate of new layers. Second moments are
    averaged over about 50 steps, because epochs here are short.
    """
    pretrained: dict[nn.Parameter, None] = {}
    tables: dict[nn.Parameter, None] = {}
    weights: dict[nn.Parameter, None] = {}
    for tower in towers:
        for module in tower.modules():
            if isinstance(module, HashedTextEncoder) and isinstance(module.weights, nn.Parameter):
                weights[module.weights] = None
                if not module.from_scratch:
                    tables[module.table] = None
            elif isinstance(module, PretrainedTextEncoder) and module.trainable:
                pretrained |= dict.fromkeys(module.parameters())
    plain = {
        parameter: None
        for tower in towers
        for parameter in tower.parameters()
        if parameter.requires_grad and not any(parameter in each for each in (tables, weights, pretrained))
    }
    groups = [{"params": list(plain), "lr": learning_rate}]
    if tables:
        width = next(iter(tables)).shape[1]
        groups.append({"params": list(tables), "lr": learning_rate / math.sqrt(width)})
    if weights:
        groups.append({"params": list(weights), "lr": learning_rate * WEIGHTS_FACTOR})
    if pretrained:
        groups.append({"params": list(pretrained), "lr": learning_rate * PRETRAINED_FACTOR})
    for group in groups:
        group["peak"] = group["lr"]
    return torch.optim.Adam(groups, betas=(0.9, 0.98))


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
