"""Alignment: a tower learns to give texts the vectors that a teacher gives them.

The first half of distillation; the training of the pairs, which contrasts them, is the second. Reimers and
Gurevych 2020 ("Making monolingual sentence embeddings multilingual using knowledge distillation") train
students likewise, on the squared distance; between unit vectors that is 2 - 2 cos.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twinspire.train.models.optimiser import adam
from twinspire.train.models.placement import to_device_of, to_device_of_module
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.towers import Tower

Rows = npt.NDArray[np.int64]

LEARNING_RATE = 2e-3  # peak
WEIGHTS_FACTOR = 10.0  # weights of n-grams are of size 1 to 3, entries of matrices far smaller
BATCHES = (32, 512)  # texts in a step, smallest and largest
WARM_UP = 0.1  # of all steps
EPOCH_STEPS = 64  # steps that an epoch has, nearly, as far as the sizes of a batch allow


@dataclass(frozen=True)
class AlignmentTask:
    """Texts for one tower, and the teacher's vectors of them.

    Args:
        tower: that learns; its vectors have unit length.
        inputs: of all records that the texts are of.
        rows: int64 (T,), distinct records to learn from.
        targets: float32 (T, D), of unit length, or zero for a text that the teacher cannot read.
    """

    tower: Tower
    inputs: PreparedInputs
    rows: Rows
    targets: npt.NDArray[np.float32]


def align(
    tasks: Sequence[AlignmentTask], epochs: int, seed: int, report: Callable[[str], None] = lambda line: None
) -> list[float]:
    """Train towers towards their teacher's vectors, in batches of one task each, in random order.

    Args:
        tasks: of towers that may share parameters, or be the same.
        epochs: over all texts.

    Returns:
        The mean loss of each epoch, 1 - cos.
    """
    random = np.random.default_rng(seed)
    towers = [task.tower for task in tasks]
    optimiser = adam(towers, LEARNING_RATE, weights_factor=WEIGHTS_FACTOR)
    size = int(np.clip(sum(len(task.rows) for task in tasks) // EPOCH_STEPS, *BATCHES))
    steps = epochs * sum(-(-len(task.rows) // size) for task in tasks)
    steps = max(2, steps)
    rise = WARM_UP if WARM_UP * steps != 1 else 2 * WARM_UP  # torch divides by the steps after the first
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, [group["lr"] for group in optimiser.param_groups], steps, pct_start=rise
    )
    was_training = {module: module.training for tower in towers for module in tower.modules()}
    for tower in towers:
        tower.train()
    means: list[float] = []
    for epoch in range(epochs):
        losses: list[float] = []
        for task, places in _batches(tasks, size, random):
            inputs = to_device_of_module(task.inputs.batch(task.rows[places]), task.tower)
            vectors: Tensor = task.tower(inputs)
            targets = to_device_of(task.targets[places], vectors)
            loss = (1 - (vectors * targets).sum(dim=1)).mean()  # of 1 - cos
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        means.append(float(np.mean(losses)))
        report(f"alignment, epoch {epoch + 1} of {epochs}: mean cosine to the teacher {1 - means[-1]:.3f}")
    for module, training in was_training.items():
        module.training = training
    return means


def _batches(
    tasks: Sequence[AlignmentTask], size: int, random: np.random.Generator
) -> list[tuple[AlignmentTask, Rows]]:
    """Batches of all tasks in random order: places in `rows` and `targets` of each."""
    found: list[tuple[AlignmentTask, Rows]] = []
    for task in tasks:
        order = random.permutation(len(task.rows))
        found += [(task, order[at : at + size]) for at in range(0, len(order), size)]
    return [found[n] for n in random.permutation(len(found))]
