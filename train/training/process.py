"""The device and the processes that a run trains with: one process, or several, the ranks.

    torchrun --standalone --local-addr 127.0.0.1 --nproc-per-node 2 -m twinspire.train fit --config C

A run computes on the CPU or on a card, in one process or in several, on one machine or on several. The
trainer and the run go through `TrainingProcess` wherever another device or more processes make a difference:

- `share` and `encode` in each step: the records are moved to the device; each process has a share of the
  queries, and the vectors of all items.
- `step`: the gradients of all processes are summed before the optimiser's step.
- `place` for the candidates of a step.
- `encode_all` and `sum` for mining and evaluation, of which each process does a share.
- `tables`: those that the processes have split; `encode_none` of a process that has no query.
- `from_rank_0`: what the first process has decided.

Losses and encoders create their tensors on the device of their inputs; what computes with a tower outside a
step follows it to its device (`train/models/placement.py`).

All ranks run the same command. They find each other by the variables that torchrun and other launchers set:
RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT. Rank 0 alone evaluates the finished towers, writes checkpoints and
tracks the run; what it decides, the others are told. A step:

    every rank   the batch and its candidates, drawn with the same seed
                 its share of the queries and of the items -> towers -> vectors
                 of large tables, the rows that they look up come from the ranks that own them
    gathered     the items' vectors; every rank scores its queries against all of them, so that in-batch
                 negatives, logQ and mined negatives are those of the whole batch
    summed       the gradients; those of large tables go to the owners of the rows
    every rank   the optimiser's step on its own copy of the parameters, which stay equal, and on its rows

The result is that of one process up to rounding; where there is dropout, each rank draws its own.
"""

import ctypes
import io
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from twinspire.protos.errors import ConfigError, Unavailable
from twinspire.protos.system.cores import thread_count
from twinspire.train.config.training import Device, TrainingConfig
from twinspire.train.data.batches import Batch, Rows
from twinspire.train.evaluation.exact_search import blocks_of_like_length, encode
from twinspire.train.interrupts import SIGNALS
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
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # by which ranks find each other
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
LONG = timedelta(days=7)  # of one exchange; rank 0 may evaluate for hours between two


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


@contextmanager
def joined(config: TrainingConfig, to_resume: str = "") -> Iterator[TrainingProcess]:
    """This process, set up for a run; with the environment of a launcher, as one of several ranks.

    Ranks other than 0 ignore SIGINT and SIGTERM in this block: rank 0 answers them for all.

    Args:
        to_resume: the command that resumes the run, for the error about a rank that has ended.

    Raises:
        ConfigError: the environment is incomplete, this machine lacks the device, or several processes are to
            train on a card.
        Unavailable: another rank has ended, or this one has too little memory.
    """
    rank, count, on_this_machine = _place()
    if count == 1:
        yield start_process(config.threads, config.device)
        return
    choose_device(config.device, count)
    keep_freed_memory()
    torch.set_num_threads(thread_count(config.threads, on_this_machine))
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if rank > 0:
        _ignore_signals()
    try:
        _join_group(on_this_machine == count)
        yield Rank(rank, count)
    except (RuntimeError, MemoryError) as error:
        text = memory_advice(error, SINGLE_PROCESS)
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            text = f"the connection to the other ranks is lost, because one of them has ended ({error})"
        if text is None:  # an error of this rank's own
            raise
        advice = f"; `{to_resume}` goes on from the last checkpoint" if to_resume and rank == 0 else ""
        raise Unavailable(f"rank {rank} of {count}: {text}{advice}") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _place() -> tuple[int, int, int]:
    """This process's rank, the number of ranks, and how many of them are on this machine.

    Raises:
        ConfigError: a variable is missing, or holds no such number.
    """
    count = _number("WORLD_SIZE", 1)
    if count == 1:
        return 0, 1, 1
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not set, but WORLD_SIZE is {count}; a launcher such as torchrun sets "
            f"{', '.join(VARIABLES)}"
        )
    rank = _number("RANK", 0)
    if rank >= count:
        raise ConfigError(f"RANK: expected a number below WORLD_SIZE, which is {count}, got {rank}")
    return rank, count, _number("LOCAL_WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    """A whole number from the environment, at least as large as its default."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or int(text) < default:
        raise ConfigError(f"{name}: expected a whole number from {default} on, got {text!r}")
    return int(text)


def _join_group(is_local: bool) -> None:
    """Join the process group of all ranks; those of one machine talk over its loopback interface.

    Raises:
        Unavailable: they cannot be joined.
    """
    from torch.distributed.distributed_c10d import _set_pg_timeout  # torch has no public name for it

    if is_local:
        os.environ.setdefault(
            "GLOO_SOCKET_IFNAME", LOOPBACK
        )  # gloo asks for no password: keep it off the network
    try:
        dist.init_process_group("gloo")
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise Unavailable(
            f"rank {os.environ['RANK']}: cannot join the other ranks at {place}: {error}"
        ) from error
    _set_pg_timeout(LONG)


class Rank(TrainingProcess):
    """One of several processes that train together, which have joined a process group."""

    def __init__(self, rank: int, count: int) -> None:
        super().__init__()
        self.rank = rank
        self.count = count

    def alone(self) -> TrainingProcess:
        """This process without the others."""
        return SINGLE_PROCESS

    @contextmanager
    def failing_once(self) -> Iterator[None]:
        """After an error in this block, signals are ignored.

        Where a rank has ended, a launcher sends them to the others, which may be marking their run as failed.
        """
        try:
            yield
        except Exception:
            _ignore_signals()
            raise

    def begin(self, towers: Iterable[Tower], optimiser: torch.optim.Optimizer) -> None:
        """Prepare the steps of an optimiser over the parameters of some towers."""
        self.tables = SplitTables(towers, optimiser, self.rank, self.count)

    def seed(self, seed: int) -> None:
        """Seed torch's random numbers of a step: rank 0 as one process does, each other one differently."""
        super().seed((seed + self.rank * 0x9E3779B97F4A7C15) % 2**63)

    def share(self, batch: Batch) -> tuple[Batch, Rows | None]:
        """This rank's share of a batch, and the places of its pairs in the batch."""
        return batch.share(self.rank, self.count)

    def encode(
        self, tower: Tower, rows: Rows, read: Callable[[Rows], Inputs], for_all: bool = False
    ) -> Tensor:
        """Vectors (N, D) of some records, with gradients; for all ranks, each encodes every `count`-th."""
        all_of_them = not for_all or len(rows) < self.count  # then every rank encodes all
        own = rows if all_of_them else rows[self.rank :: self.count]
        vectors = super().encode(tower, own, lambda rows: self._with_tables(tower, read(rows), for_step=True))
        return vectors if all_of_them else all_gather_rows(vectors, len(rows), self.count)

    def encode_none(self, tower: Tower) -> None:
        """Take part in `encode` of the others, without records."""
        self.tables.fetch(tower, None, for_step=True)

    def _with_tables(self, tower: Tower, inputs: Inputs, for_step: bool = False) -> Inputs:
        """The inputs, once the rows of large tables that a tower looks up for them are here."""
        self.tables.fetch(tower, inputs, for_step)
        return inputs

    def encode_all(self, tower: Tower, corpus: PreparedInputs, rows: Rows | None = None) -> Tensor:
        """Vectors of records, without gradients; each rank encodes every `count`-th block of them."""
        index = np.arange(len(corpus)) if rows is None else rows
        blocks = blocks_of_like_length(corpus, index)
        place = partial(self._with_tables, tower)
        if len(blocks) < self.count:  # then every rank encodes all
            return encode(tower, corpus, index, place)
        own = blocks[self.rank :: self.count]
        encoded = torch.cat([encode(tower, corpus, index[block], place) for block in own])
        if len(own) < len(blocks[:: self.count]):  # others encode one more
            self.tables.fetch(tower, None)
        vectors = encoded.new_zeros(len(index), encoded.shape[1])
        vectors[torch.from_numpy(np.concatenate(own))] = encoded
        dist.all_reduce(vectors)  # of the others' records, this rank has zeros
        return vectors

    def step(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> float:
        """Take a step down the gradient of the sum of the ranks' losses; returns the sum."""
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [each for group in optimiser.param_groups for each in group["params"]]
        total = sum_gradients(parameters, self.tables, loss.detach())
        optimiser.step()
        return total

    def sum(self, values: Rows) -> Rows:
        """The sum of an int64 array over all ranks."""
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total)
        return np.asarray(total.numpy())

    def from_rank_0(self, value: Any) -> Any:
        """Rank 0's value, a tree of tensors, numbers and texts; what the others give is ignored."""
        buffer = io.BytesIO()
        torch.save(value, buffer)
        size = torch.tensor(buffer.tell())
        dist.broadcast(size, 0)
        content = torch.empty(int(size), dtype=torch.uint8)
        if self.rank == 0:
            content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        dist.broadcast(content, 0)
        if self.rank == 0:
            return value
        # As a checkpoint: what another process sends cannot run code.
        return torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        dist.barrier()


def all_gather_rows(own: Tensor, total: int, count: int) -> Tensor:
    """Vectors of all ranks, with gradients: the gradient of a rank's own ones is the sum over all ranks.

    Args:
        own: (n, D), every `count`-th row of the result, from the number of this rank on.
        total: N, rows of the result.

    Returns:
        (N, D)
    """
    gathered: Tensor = _AllGather.apply(own, total, count)  # type: ignore[no-untyped-call]
    return gathered


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, total: int, count: int) -> Tensor:
        ctx.count, ctx.rows = count, len(own)
        padded = _padded(own, -(-total // count))
        parts = [torch.empty_like(padded) for _ in range(count)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:total]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        width = -(-len(grad) // ctx.count)
        padded = _padded(grad, width * ctx.count)
        by_rank = padded.view(width, ctx.count, -1).transpose(0, 1).contiguous()  # (count, width, D)
        received = torch.empty_like(by_rank)
        dist.all_to_all_single(received, by_rank)
        return received.sum(dim=0)[: ctx.rows], None, None


def _padded(rows: Tensor, count: int) -> Tensor:
    if len(rows) == count:
        return rows.contiguous()
    padded = rows.new_zeros(count, rows.shape[1])
    padded[: len(rows)] = rows
    return padded


def sum_gradients(parameters: Sequence[Tensor], tables: SplitTables, loss: Tensor) -> float:
    """Replace each gradient by the sum over all ranks; returns the sum of the losses.

    The sums have the same bits on all ranks, so the parameters stay equal, but for tables that are split. A
    parameter without a gradient on any rank has none afterwards, as in one process.

    Args:
        parameters: all that the optimiser steps on.
        tables: those of them that are split.
    """
    split = [*zip(parameters, map(tables.find, parameters), strict=True)]
    given = [each.grad is not None if table is None else table.has_gradient() for each, table in split]
    dense = [each for each, table in split if table is None]
    flat = torch.cat([*map(_flattened, dense), torch.tensor(given).float(), loss.reshape(1)])
    dist.all_reduce(flat)
    at = 0
    for (parameter, table), has in zip(split, flat[-len(given) - 1 : -1].tolist(), strict=True):
        if table is not None:
            table.add_gradients(has > 0)
            continue
        whole = flat[at : at + parameter.numel()].view(parameter.shape)
        parameter.grad = whole if has else None
        at += parameter.numel()
    return float(flat[-1])


def _flattened(parameter: Tensor) -> Tensor:
    """The gradient of a parameter in one dimension, zeros if there is none."""
    grad = parameter.grad
    return parameter.new_zeros(parameter.numel()) if grad is None else grad.to_dense().reshape(-1)
