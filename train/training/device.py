"""The device and the processes that a run trains with.

A run computes on the CPU or on a card, in one process or in several (`ranks`). The trainer and the run go
through `TrainingProcess` wherever another device or more processes make a difference:

- `share` and `encode` in each step: the records are moved to the device; each process has a share of the
  queries, and the vectors of all items.
- `step`: the gradients of all processes are summed before the optimiser's step.
- `place` for the candidates of a step.
- `encode_all` and `sum` for mining and evaluation, of which each process does a share.
- `tables`: those that the processes have split; `encode_none` of a process that has no query.
- `from_rank_0`: what the first process has decided.

Losses and encoders create their tensors on the device of their inputs; what computes with a tower outside a
step follows it to its device (`train/models/placement.py`).
"""

import ctypes
import platform
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from twinspire.protos.errors import ConfigError
from twinspire.protos.system.cores import thread_count
from twinspire.train.config.training import Device
from twinspire.train.data.batches import Batch, Rows
from twinspire.train.evaluation.exact_search import encode
from twinspire.train.models.placement import moved
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.towers import Inputs, Tower
from twinspire.train.training.split_tables import SplitTables

T = TypeVar("T")
CPU = torch.device("cpu")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
REUSED_BYTES = 256 << 20  # freed arrays up to this size are reused
REUSED_BY_OLD_GLIBC = 32 << 20  # the most that earlier versions of glibc accept
_OTHER_MEMORY = re.compile(r"DefaultCPUAllocator|MPS backend out of memory")


class TrainingProcess:
    """One process of a run, and the device that it computes on.

    Args:
        device: of towers, mining and evaluation.
    """

    rank = 0
    count = 1  # of the processes
    tables = SplitTables((), None, 0, 1)  # that several processes have split; without any this does nothing

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device

    @property
    def device_name(self) -> str:
        """What the device calls itself, such as the name of a card; of others, the kind of processor."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return platform.processor() or platform.machine()

    def describe(self) -> dict[str, str]:
        """Device and its name, as a run logs them."""
        return {"device": str(self.device), "device.name": self.device_name}

    def place(self, value: T) -> T:
        """A tensor, or a mapping or a dataclass that holds tensors, on the device."""
        return moved(value, lambda tensor: tensor.to(self.device))

    def place_towers(self, towers: Iterable[Tower]) -> None:
        """Move towers to the device; a buffer that two of them share stays shared."""
        towers = [*towers]
        buffers = [
            (module, name, buffer)
            for tower in towers
            for module in tower.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        kept: dict[int, Tensor] = {}
        for tower in towers:
            tower.to(self.device)
        for module, name, buffer in buffers:
            setattr(module, name, kept.setdefault(id(buffer), buffer.to(self.device)))

    def seed(self, seed: int) -> None:
        """Seed torch's random numbers of a step, which dropout draws; below 2^63."""
        torch.manual_seed(seed)

    def alone(self) -> "TrainingProcess":
        """This process without the others, for what it does beside them."""
        return self

    def failing_once(self) -> AbstractContextManager[None]:
        """Around a run: with other processes, what is done after an error in it is not interrupted."""
        return nullcontext()

    def begin(self, towers: Iterable[Tower], optimiser: torch.optim.Optimizer) -> None:
        """Prepare the steps of an optimiser over the parameters of some towers."""

    def share(self, batch: Batch) -> tuple[Batch, Rows | None]:
        """This process's share of a batch, and the places of its pairs in the batch; None for all."""
        return batch, None

    def encode(
        self, tower: Tower, rows: Rows, read: Callable[[Rows], Inputs], for_all: bool = False
    ) -> Tensor:
        """Float32 vectors (N, D) of some records, with gradients.

        Args:
            rows: int64 (N,), of the records.
            for_all: all processes ask for the vectors of the same records: each encodes a share and gathers
                the vectors of the others.
        """
        vectors: Tensor = tower(self.place(read(rows)))
        return vectors

    def encode_none(self, tower: Tower) -> None:
        """Take part in `encode` of the others, without records."""

    def encode_all(self, tower: Tower, corpus: PreparedInputs, rows: Rows | None = None) -> Tensor:
        """Float32 vectors (N, D) of records, without gradients; all processes ask for the same ones.

        Args:
            rows: int64 (N,), of the records; None encodes all.
        """
        return encode(tower, corpus, rows, self.place)

    def step(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> float:
        """Take a step down the gradient of the loss, which is the sum over all processes; returns the sum."""
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    def sum(self, values: Rows) -> Rows:
        """The sum of an array over all processes."""
        return values

    def from_rank_0(self, value: Any) -> Any:
        """The value of the first process, on all of them."""
        return value

    def wait(self) -> None:
        """Wait until all processes are here."""


SINGLE_PROCESS = TrainingProcess()


def start_process(threads: int, device: Device = "cpu") -> TrainingProcess:
    """Set up this process for a run that it trains alone.

    Args:
        threads: torch's thread budget; 0: see `thread_count`.

    Raises:
        ConfigError: this machine lacks the device.
    """
    chosen = choose_device(device)
    keep_freed_memory()
    torch.set_num_threads(thread_count(threads))
    if chosen == CPU:
        return SINGLE_PROCESS
    # float32 means float32; by default cuDNN's recurrent layers round their inputs to 10 bits.
    torch.backends.cudnn.allow_tf32 = False
    return TrainingProcess(chosen)


def keep_freed_memory() -> None:
    """Let this process reuse the memory of large arrays that it has freed; glibc only.

    By default glibc returns it to the system (mallopt(3)), and to get it again a page at a time can take
    several times as long as what is computed with it.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", lambda *_: False)
    if set_option(M_MMAP_THRESHOLD, REUSED_BYTES) or set_option(M_MMAP_THRESHOLD, REUSED_BY_OLD_GLIBC):
        set_option(M_TRIM_THRESHOLD, 2 * REUSED_BYTES)


def choose_device(asked: Device, ranks: int = 1) -> torch.device:
    """The device of a run.

    Args:
        ranks: number of processes; several train on the CPU alone.

    Raises:
        ConfigError: this machine lacks the device, or several processes are to train on a card.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        asked = "cpu" if ranks > 1 else "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if asked == "cpu":
        return CPU
    if ranks > 1:
        raise ConfigError(
            f'training.device: "{asked}" trains with one process, not with {ranks} ranks, which train on the '
            'CPU; use "cpu" or "auto", or one rank'
        )
    if not there[asked]:
        name = {"cuda": "CUDA", "mps": "Metal"}[asked]
        raise ConfigError(
            f'training.device: "{asked}", but torch finds no {name} device; use "cpu" or "auto"'
        )
    return torch.device("cuda", 0) if asked == "cuda" else torch.device("mps")


def memory_advice(error: BaseException, process: TrainingProcess) -> str | None:
    """An error text with advice, if torch or NumPy has run out of memory; None for all other errors.

    On a CUDA device torch raises `OutOfMemoryError`; in main memory and on Metal it raises a `RuntimeError`,
    which is recognised by its text.
    """
    has_class = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not has_class and not _OTHER_MEMORY.search(str(error)):
        return None
    # Without torch's advice on Metal, which is to lift the system's limit of memory.
    said = str(error).strip().partition(" Use PYTORCH_")[0].rstrip(".")
    if isinstance(error, MemoryError):
        return f"main memory is too small: {said}; use fewer items, or a machine with more memory"
    ways = ["a smaller training.batch_size"]
    if process.device != CPU:
        ways.append('training.device = "cpu", which can also resume a run')
    return f"{process.device} ({process.device_name}) has too little memory: {said}; try {', or '.join(ways)}"
