"""Large tables of embeddings, of which each rank of a run has a share.

Row r of a table belongs to rank r mod R. That rank alone has it, its moments and its average, and takes its
step. A table is split if its gradients are sparse (`encoders.has_row_gradients`):

    at the start   rank 0 sends each rank its rows
    each batch     a rank asks the owners for the distinct rows that its records look up
    each step      the gradients of these rows go to the owners, which add them
    a checkpoint   rank 0 collects all rows in a file, in blocks
    at the end     rank 0 has the whole table again

The parameter stays the same object, and its values are the rows that its rank owns.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.train.models.architectures.clicks import ClickTower
from twinspire.train.models.encoders import CategoryEncoder, FetchedRows, TextBags, has_row_gradients
from twinspire.train.models.sequence_encoders import Windows
from twinspire.train.models.towers import Inputs, Tower
from twinspire.train.paths import CACHE

_BLOCK = 16_384  # rows in a message between rank 0 and an owner


def lookups(tower: Tower) -> Iterator[tuple[Tensor, str]]:
    """The tables of a tower's encoders, each with the name of the input whose rows are looked up in it."""
    for name, encoder in chain(tower.encoders.items(), tower.factors.items()):
        if isinstance(encoder, CategoryEncoder):
            yield encoder.embedding.weight, name
        elif isinstance(table := getattr(encoder, "table", None), nn.Parameter):
            yield table, name
    if isinstance(tower, ClickTower) and tower.feedback is not None:
        yield from ((table, name) for name, table in tower.feedback.tables.items())


@dataclass(frozen=True)
class _Exchange:
    """The rows that a rank asked for with gradients, and those that others asked it for.

    Args:
        values: (U, H), a leaf of the graph.
        sent: int64 (S,), rows of this rank's share.
        asked: number of rows of `values` by owner.
        given: number of rows of `sent` by the rank that asked.
    """

    values: Tensor
    sent: Tensor
    asked: list[int]
    given: list[int]


class SplitTable:
    """A table of which this rank has every `count`-th row, from row `rank` on.

    Args:
        table: (V, H); on ranks other than 0 its values do not count.

    Attributes:
        own: this rank's rows, after `take`.
    """

    own: Tensor

    def __init__(self, table: nn.Parameter, optimiser: torch.optim.Optimizer, rank: int, count: int) -> None:
        self.table = table
        self._optimiser = optimiser
        self._rank, self._count = rank, count
        self._shape = table.shape
        self._most = -(-len(table) // count)  # rows of a rank
        self._places = torch.full((len(table),), -1)
        self._fetched = torch.empty(0, dtype=torch.int64)  # rows
        self._exchanges: list[_Exchange] = []
        self._whole: Tensor | None = table.detach() if rank == 0 else None
        table.fetched = None  # type: ignore[attr-defined]
        self.show(table.detach().new_empty(0, self._shape[1]))

    @property
    def state(self) -> dict[str, Any]:
        """The optimiser's state of the table."""
        found: dict[str, Any] = self._optimiser.state[self.table]
        return found

    def moments(self) -> dict[str, Tensor]:
        """Of its state, what has a number for each of its own; in the same order on all ranks."""
        return {name: value for name, value in sorted(self.state.items()) if value.ndim > 1}

    def show(self, values: Tensor) -> None:
        """Set the values of the parameter."""
        self.table.data = values

    def take(self) -> None:
        """Take this rank's rows of rank 0's table."""
        self.own = self.share(self._whole)
        self._whole = None
        self.show(self.own)

    def share(self, whole: Tensor | None) -> Tensor:
        """This rank's rows of a tensor of the table's shape, which rank 0 has; all ranks call this."""
        if self._rank:
            rows = range(self._rank, self._shape[0], self._count)
            own = self.table.detach().new_empty(len(rows), self._shape[1])
            for block in _blocks(own):
                dist.recv(block, 0)
            return own
        assert whole is not None
        for rank in range(1, self._count):
            for block in _blocks(whole[rank :: self._count]):
                dist.send(block.contiguous(), rank)
        return whole[:: self._count].clone()

    def collect(self, own: Tensor) -> Tensor:
        """The reverse of `share`, on rank 0 in a file that is mapped; other ranks get their rows back."""
        if self._rank:
            for block in _blocks(own):
                dist.send(block, 0)
            return own
        whole = _in_file(self._shape, own.dtype)
        whole[:: self._count] = own
        for rank in range(1, self._count):
            for block in _blocks(whole[rank :: self._count]):
                received = torch.empty(block.shape, dtype=block.dtype)
                dist.recv(received, rank)
                block.copy_(received)
        return whole

    def fetch(self, rows: Sequence[Tensor], for_step: bool) -> None:
        """Get the rows that a batch looks up from their owners; all ranks call this.

        Args:
            rows: integers of any shape; none if this rank has no records.
            for_step: as of `SplitTables.fetch`.
        """
        occurs = torch.zeros(self._count, self._most, dtype=torch.bool)
        for each in (each.flatten().long() for each in rows):
            occurs[each % self._count, each // self._count] = True
        owner, place = occurs.nonzero(as_tuple=True)
        asked = torch.bincount(owner, minlength=self._count)
        given = torch.empty_like(asked)
        dist.all_to_all_single(given, asked)
        counts = asked.tolist(), given.tolist()
        sent = place.new_empty(int(given.sum()))
        dist.all_to_all_single(sent, place, counts[1], counts[0])
        found = F.embedding(sent, self.own)
        values = found.new_empty(len(place), found.shape[1])
        dist.all_to_all_single(values, found, *counts)
        self._places[self._fetched] = -1
        self._fetched = place * self._count + owner
        self._places[self._fetched] = torch.arange(len(place))
        if for_step:
            values.requires_grad_()
            self._exchanges.append(_Exchange(values, sent, *counts))
        self.table.fetched = FetchedRows(values, self._fetched, self._places)  # type: ignore[attr-defined]

    def has_gradient(self) -> bool:
        """Whether rows that this rank has fetched for the step have a gradient."""
        return any(each.values.grad is not None for each in self._exchanges)

    def add_gradients(self, has_gradient: bool) -> None:
        """Set the gradient of this rank's rows to the sum over all ranks; all of them call this.

        Args:
            has_gradient: whether there is one on any rank.
        """
        rows, gradients = list[Tensor](), list[Tensor]()
        for each in self._exchanges if has_gradient else ():
            grad = each.values.grad
            grad = torch.zeros_like(each.values) if grad is None else grad.to_dense()
            received = grad.new_empty(len(each.sent), grad.shape[1])
            dist.all_to_all_single(received, grad, each.given, each.asked)
            rows.append(each.sent)
            gradients.append(received)
        self._exchanges = []
        self.table.grad = None
        if has_gradient:
            given = torch.cat(rows)[None], torch.cat(gradients)
            self.table.grad = torch.sparse_coo_tensor(*given, self.own.shape, check_invariants=False)


def _blocks(rows: Tensor) -> Sequence[Tensor]:
    """Views of up to `_BLOCK` rows each."""
    found: Sequence[Tensor] = rows.split(_BLOCK)  # type: ignore[no-untyped-call]
    return found


def _in_file(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor whose values are in a file without a name, so that they need not stay in main memory.

    Raises:
        OSError: the disk is full.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=CACHE) as file:
        size = shape.numel() * dtype.itemsize
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a signal later
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return torch.from_file(file.name, shared=True, size=shape.numel(), dtype=dtype).view(shape)


class SplitTables:
    """The split tables of the towers of a trainer, with their states in an optimiser.

    Args:
        optimiser: None if there are no towers.
        rank: of this process.
        count: of the processes.
    """

    def __init__(
        self, towers: Iterable[Tower], optimiser: torch.optim.Optimizer | None, rank: int, count: int
    ) -> None:
        self._towers = [*towers]
        self._optimiser = optimiser
        self._place = rank, count
        self._tables: dict[int, SplitTable] = {}

    def __iter__(self) -> Iterator[SplitTable]:
        return iter(self._tables.values())

    def find(self, parameter: Tensor) -> SplitTable | None:
        """The split table that is this parameter, if it is one."""
        return self._tables.get(id(parameter))

    @contextmanager
    def splitting(self) -> Iterator[None]:
        """Split the tables: in this block they have no rows, afterwards each rank's are those of rank 0's.

        In the block, the other ranks take over rank 0's state of the optimiser but for that of these rows.
        """
        assert self._optimiser is not None
        tables = {table for tower in self._towers for table, _ in lookups(tower) if has_row_gradients(table)}
        parameters = [each for group in self._optimiser.param_groups for each in group["params"]]
        for table in (each for each in parameters if each in tables):  # in the same order on all ranks
            self._tables[id(table)] = SplitTable(table, self._optimiser, *self._place)
        whole = [(split, split.moments()) for split in self]
        for split, moments in whole:
            split.state.update(dict.fromkeys(moments, split.table.detach()))
        yield
        for split, moments in whole:
            split.take()
            for name in split.moments():
                split.state[name] = split.share(moments.get(name))

    def fetch(self, tower: Tower, inputs: Inputs | None, for_step: bool = False) -> None:
        """Get the rows that a tower looks up for its inputs from their owners; all ranks call this.

        Args:
            inputs: None if this rank has no records.
            for_step: `SplitTable.add_gradients` exchanges their gradients; the same on all ranks.
        """
        read: dict[SplitTable, list[Tensor]] = {}
        for table, name in lookups(tower):
            split = self.find(table)
            if split is not None:
                rows = read.setdefault(split, [])
                if inputs is not None:
                    value = inputs[name]
                    rows.append(value.rows if isinstance(value, TextBags | Windows) else value)
        for split, rows in read.items():
            # Row 0 is padding, with which dropout replaces others.
            split.fetch([*rows, torch.zeros(1, dtype=torch.int64)] if rows else [], for_step)

    @contextmanager
    def whole(self, with_states: bool = False) -> Iterator[None]:
        """In this block rank 0 has whole tables; all ranks enter it.

        Args:
            with_states: also what the optimiser has for each of their numbers.
        """
        own = [(split, split.moments() if with_states else {}) for split in self]
        for split, moments in own:
            split.show(split.collect(split.own))
            split.state.update({name: split.collect(value) for name, value in moments.items()})
        try:
            yield
        finally:
            for split, moments in own:
                split.show(split.own)
                split.state.update(moments)

    def join(self) -> None:
        """After the last step: give rank 0 whole tables, as one process has; the others' do not count."""
        for split in self:
            split.show(split.collect(split.own))
            del split.table.fetched  # type: ignore[attr-defined]
        self._tables = {}
