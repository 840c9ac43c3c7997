"""One of several processes that train together on one machine: a rank of a run.

`rank_processes` starts them. Rank 0 leads: it alone evaluates, writes checkpoints and tracks the run, and
says which method of their trainers the other ranks call (`lead`). A step:

    every rank   the batch and its candidates, drawn with the same seed
                 its share of the queries and of the items -> towers -> vectors
    gathered     the items' vectors; every rank scores its queries against all of them, so that in-batch
                 negatives, logQ and mined negatives are those of the whole batch
    summed       the gradients; of large tables as rows, each rank receives those of its part of the table
    every rank   the optimiser's step on its part of all parameters and moments

Vectors and gradients go through torch.distributed. Parameters and moments are in memory that all ranks share,
so each part is computed and stored once, and rank 0 has the whole state for a checkpoint at any time. The
result is that of one process up to rounding; where there is dropout, each rank draws its own.
"""

import os
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from protos.errors import Unavailable
from train.data.batches import Batch
from train.evaluation.exact_search import encode
from train.models.clicks import FeedbackEncoder
from train.models.encoders import CategoryEncoder, HashedTextEncoder, mark
from train.models.sequence_encoders import AttentionEncoder, IdEncoder, PoolingEncoder
from train.models.towers import Inputs, Tower
from train.training.device import Rows, TrainingProcess, in_shared_memory
from train.training.exchange import SharedOptimiser, all_gather_rows
from train.training.trainer import Trainer
from train.training.weight_average import AVERAGE

ROWS_FROM = 1 << 20  # numbers in a table from which on its gradients are exchanged as rows
SHARED_MEMORY = Path("/dev/shm")  # where Linux keeps it; containers often limit it


class Rank(TrainingProcess):
    """One of several processes that train together.

    Args:
        trainer: whose towers and optimiser are in shared memory.
    """

    def __init__(self, rank: int, count: int, trainer: Trainer, rows_from: int) -> None:
        super().__init__()
        self.rank = rank
        self.count = count
        self.updates_average = rank == 0
        self._tables = [table for table in _tables(trainer.towers) if table.numel() >= rows_from]
        for table in self._tables:
            mark(table)
        self._optimiser = SharedOptimiser(trainer.optimiser, self._tables, rank, count)

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
        if not for_all or len(rows) < self.count:  # then every rank encodes all
            return super().encode(tower, rows, read)
        own = super().encode(tower, rows[self.rank :: self.count], read)
        return all_gather_rows(own, len(rows), self.count)

    def step(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> float:
        """Take a step down the gradient of the sum of the ranks' losses; returns the sum."""
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        total = self._optimiser.step(loss.detach())
        dist.barrier()  # the others' parts of the parameters are complete
        return total

    def sum(self, values: Rows) -> Rows:
        """The sum of an int64 array over all ranks."""
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total)
        return np.asarray(total.numpy())

    def wait(self) -> None:
        """Wait until all ranks are here."""
        dist.barrier()


class Leader(Rank):
    """Rank 0, which has a connection to each of the others."""

    def __init__(self, connections: list[Connection], trainer: Trainer, rows_from: int) -> None:
        super().__init__(0, len(connections) + 1, trainer, rows_from)
        self._connections = connections

    def lead(self, task: str, *arguments: Any) -> None:
        """Have the other ranks call a method of their trainers."""
        for connection in self._connections:
            connection.send((task, *arguments))

    def release(self) -> None:
        """Give the tables dense gradients again."""
        for table in self._tables:
            mark(table, sparse=False)


def share_memory(trainer: Trainer) -> None:
    """Move the towers, and the optimiser's state, which is made if it is not yet, to shared memory.

    Raises:
        Unavailable: there is too little of it.
    """
    for group in trainer.optimiser.param_groups:
        for parameter in group["params"]:
            state = trainer.optimiser.state[parameter]
            if not state:  # as Adam makes it in its first step
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            if trainer.config.average_epochs and AVERAGE not in state:
                state[AVERAGE] = parameter.detach().clone()
    expect_shared_memory(trainer)
    for each in _tensors(trainer):
        in_shared_memory(each)


def expect_shared_memory(trainer: Trainer) -> None:
    """Check that shared memory has room for all that ranks exchange in it.

    Shared memory holds the vectors, the towers and the optimiser's state. A process that writes to more
    memory than there is is ended by SIGBUS.

    Raises:
        Unavailable: there is too little of it.
    """
    needed = sum(each.nbytes for each in _tensors(trainer)) + _vectors_bytes(trainer)
    if SHARED_MEMORY.is_dir():
        found = os.statvfs(SHARED_MEMORY)
        free = found.f_bavail * found.f_frsize
        if needed > free:
            raise Unavailable(
                f"{SHARED_MEMORY}: towers, optimiser and vectors need {needed / 2**20:,.0f} MiB of shared "
                f"memory, {free / 2**20:,.0f} MiB are free; in Docker, --shm-size sets its size"
            )


def _tensors(trainer: Trainer) -> list[Tensor]:
    """The tensors of towers and optimiser, each once."""
    held = [each for tower in trainer.towers for each in (*tower.parameters(), *tower.buffers())]
    states = [each for state in trainer.optimiser.state.values() for each in state.values()]
    return [*{id(each): each for each in (*held, *states)}.values()]


def _vectors_bytes(trainer: Trainer) -> int:
    """Bytes of the vectors of all queries and, twice, of all items, which evaluation and mining share."""
    prepared, first = (trainer.queries, trainer.items), np.zeros(1, np.int64)
    query, item = (encode(*each, first).nbytes for each in zip(trainer.towers, prepared, strict=True))
    return len(trainer.queries) * query + 2 * len(trainer.items) * item


def _tables(towers: Iterable[Tower]) -> list[Tensor]:
    """The tables of embeddings of some towers that are trained, each once."""
    found: dict[int, Tensor] = {}
    for module in (module for tower in towers for module in tower.modules()):
        tables: list[Tensor] = []
        if isinstance(module, HashedTextEncoder | IdEncoder | PoolingEncoder | AttentionEncoder):
            tables = [module.table]
        elif isinstance(module, CategoryEncoder):
            tables = [module.embedding.weight]
        elif isinstance(module, FeedbackEncoder):
            tables = [*module.tables.values()]
        found |= {id(table): table for table in tables if table.requires_grad}
    return [*found.values()]
