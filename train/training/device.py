"""The device and the processes that a run trains with. No other module decides either.

Training runs in one process on the CPU. The trainer and the run go through `TrainingProcess` wherever another
device or more processes would make a difference:

- `encode` in each step: the records are moved to the device, and every process gets all vectors.
- `place` for the candidates of a step.
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

from train.models.towers import Inputs, Tower

Rows = npt.NDArray[np.int64]
T = TypeVar("T")


class TrainingProcess:
    """One process of a run, and the device that it computes on."""

    device = torch.device("cpu")
    rank = 0

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

    def encode(self, tower: Tower, rows: Rows, read: Callable[[Rows], Inputs]) -> Tensor:
        """Vectors (N, D) of some records, with gradients.

        With more processes, each would encode a share of the rows and gather the vectors of the others.

        Args:
            rows: int64 (N,), of the records.
            read: gives the inputs of records.
        """
        vectors: Tensor = tower(self.place(read(rows)))
        return vectors


SINGLE_PROCESS = TrainingProcess()


def start_process(threads: int) -> TrainingProcess:
    """Set up this process for a run.

    Args:
        threads: torch's thread budget; 0 takes all cores.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    return SINGLE_PROCESS


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(each, device) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _moved(getattr(value, name), device) for name in names})
    return value
