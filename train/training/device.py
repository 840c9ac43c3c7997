"""The device and the processes that a run trains with.

Training runs on the CPU, in one process or in several (`ranks`). The trainer and the run go through
`TrainingProcess` wherever another device or more processes make a difference:

- `share` and `encode` in each step: the records are moved to the device; each process has a share of the
  queries, and the vectors of all items.
- `step`: the gradients of all processes are summed before the optimiser's step.
- `place` for the candidates of a step.
- `lead`: the main process says what the others do.
- `is_main` before progress, checkpoints and MLflow: one process writes them.

Losses and encoders create their tensors on the device of their inputs.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data.batches import Batch
from train.models.towers import Inputs, Tower

Rows = npt.NDArray[np.int64]
T = TypeVar("T")


class TrainingProcess:
    """One process of a run, and the device that it computes on."""

    device = torch.device("cpu")
    rank = 0
    count = 1  # of the processes

    @property
    def is_main(self) -> bool:
        """Whether this process writes progress, checkpoints and MLflow; of all processes, one does."""
        return self.rank == 0

    def place(self, value: T) -> T:
        """A tensor, or a mapping or a dataclass that holds tensors, on the device."""
        moved: T = _moved(value, self.device)
        return moved

    def place_towers(self, towers: Iterable[Tower]) -> None:
        """Move towers to the device; a buffer that two of them share stays shared."""
        moved: dict[int, Tensor] = {}
        for tower in towers:
            buffers = [
                (module, name, buffer)
                for module in tower.modules()
                for name, buffer in module.named_buffers(recurse=False)
            ]
            tower.to(self.device)
            for module, name, buffer in buffers:
                setattr(module, name, moved.setdefault(id(buffer), buffer.to(self.device)))

    def seed(self, seed: int) -> None:
        """Seed torch's random numbers of a step, which dropout draws; below 2^63."""
        torch.manual_seed(seed)

    def lead(self, task: str, *arguments: Any) -> None:
        """Have the other processes call a method of their trainers; the caller does its own part then."""

    def share(self, batch: Batch) -> tuple[Batch, Rows | None]:
        """This process's share of a batch, and the places of its pairs in the batch; None for all."""
        return batch, None

    def encode(
        self, tower: Tower, rows: Rows, read: Callable[[Rows], Inputs], for_all: bool = False
    ) -> Tensor:
        """Vectors (N, D) of some records, with gradients.

        Args:
            rows: int64 (N,), of the records.
            read: gives the inputs of records.
            for_all: all processes ask for the vectors of the same records: each encodes a share and gathers
                the vectors of the others.
        """
        vectors: Tensor = tower(self.place(read(rows)))
        return vectors

    def step(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> float:
        """Take a step down the gradient of the loss, which is the sum over all processes; returns the sum."""
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    def sum(self, values: Rows) -> Rows:
        """The sum of an array over all processes."""
        return values

    def wait(self) -> None:
        """Wait until all processes are here."""


SINGLE_PROCESS = TrainingProcess()


def start_process(threads: int) -> TrainingProcess:
    """Set up this process for a run.

    Args:
        threads: torch's thread budget; 0 takes all cores.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    return SINGLE_PROCESS


def in_shared_memory(tensor: Tensor) -> Tensor:
    """The tensor, moved in place to memory that other processes get when it is sent to them."""
    return tensor.share_memory_()  # type: ignore[no-untyped-call, no-any-return]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(each, device) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _moved(getattr(value, name), device) for name in names})
    return value
