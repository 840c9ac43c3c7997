"""Which pairs make a step.

Pairs of one query stay together where queries have histories, because a query is then encoded once for
all of them; elsewhere they are dealt out one by one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.corpus import HistoryCorpus, Spans
from train.problem import Pairs

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One step's pairs and queries.

    Args:
        pairs: int64 (P,), which training pairs.
        queries: int64 (B,), the query rows, each once where they have histories.
        query: int64 (P,), the place of each pair's query among them.
        spans: where histories share windows.
    """

    pairs: Rows
    queries: Rows
    query: Rows
    spans: Spans | None = None


def batches(count: int, queries: Rows, size: int, seed: tuple[int, int]) -> Iterator[Batch]:
    """All pairs in a random order, `size` at a time; a last batch of fewer than two is left out.

    Args:
        count: number of pairs.
        queries: int64 (count,), their query rows.
        seed: of the order; the same seed gives the same batches.
    """
    order = np.random.default_rng(seed).permutation(count)
    for at in range(0, count, size):
        chosen = order[at : at + size]
        if len(chosen) < 2:
            return
        yield Batch(chosen, queries[chosen], np.arange(len(chosen)))


def batch_count(pairs: int, size: int) -> int:
    """How many batches `batches` gives."""
    return pairs // size + (pairs % size >= 2)


class HistoryBatches:
    """Batches of whole windows of users' histories, every place of a window a query.

    A window begins at a random place of a user's history, so that an item is met at the beginning of a
    history as well as at its end. Without sharing, each query is a window of its own, and sees all of its
    history.

    Args:
        pairs: what is learned from.
        histories: of all queries.
        size: pairs in a batch, about: windows are not broken up.
        shared: queries of a user share windows.
    """

    def __init__(self, pairs: Pairs, histories: HistoryCorpus, size: int, shared: bool) -> None:
        self.size = size
        self.shared = shared
        self._by_query = np.argsort(pairs.query, kind="stable")
        queries, self._first, self._count = np.unique(
            pairs.query[self._by_query], return_index=True, return_counts=True
        )
        order = np.lexsort((histories.end[queries], histories.begin[queries]))
        self._first, self._count = self._first[order], self._count[order]
        self._queries = queries[order]
        self._begin, self._end = histories.begin[self._queries], histories.end[self._queries]
        self._length = histories.max_length

    def draw(self, seed: tuple[int, int]) -> list[Batch]:
        """All pairs, in batches; the same seed gives the same ones."""
        generator = np.random.default_rng(seed)
        window, begin = self._windows(generator)
        starts = np.flatnonzero(np.r_[True, window[1:] != window[:-1]])  # of each window, among the queries
        stops = np.r_[starts[1:], len(window)]
        # Windows of like length go together, more or less, so that little is spent on padding.
        lengths = self._end[stops - 1] - begin[starts]
        order = np.argsort(lengths + generator.normal(0, 0.1 * self._length, len(lengths)), kind="stable")
        pairs = np.add.reduceat(self._count, starts)[order]
        chunks = np.split(order, self._cuts(pairs))
        generator.shuffle(chunks)
        return [self._batch(chunk, starts, stops, begin) for chunk in chunks]

    def _windows(self, generator: np.random.Generator) -> tuple[Rows, Rows]:
        """For each query, in order, the number of its window and the item that the window begins with."""
        if not self.shared:
            earliest = np.maximum(self._begin, self._end - self._length)
            return np.arange(len(self._queries)), earliest
        users, user = np.unique(self._begin, return_inverse=True)
        longest = np.zeros(len(users), np.int64)
        np.maximum.at(longest, user, self._end - self._begin)
        offset = np.where(
            longest > self._length, generator.integers(1, self._length + 1, len(users)), self._length
        )[user]
        behind = self._end - self._begin - offset  # above 0 where the first cut lies before the query
        number = np.maximum(0, -(-behind // self._length))
        begin = self._begin + np.where(number > 0, offset + (number - 1) * self._length, 0)
        key = user * (number.max(initial=0) + 1) + number
        return key, begin

    def _cuts(self, pairs: Rows) -> Rows:
        """Where to cut windows that hold so many pairs each; no pair is left alone, without negatives."""
        cuts = np.flatnonzero(np.diff((np.cumsum(pairs) - 1) // self.size)) + 1
        held = np.add.reduceat(pairs, np.r_[0, cuts])
        if held[0] < 2:
            cuts, held = cuts[1:], held[1:]
        return cuts[held[1:] >= 2]

    def _batch(self, windows: Rows, starts: Rows, stops: Rows, begin: Rows) -> Batch:
        places, window = _stretches(starts[windows], stops[windows])
        chosen, query = _stretches(self._first[places], self._first[places] + self._count[places])
        spans = Spans(begin[starts[windows]], self._end[stops[windows] - 1], window, self._end[places])
        return Batch(self._by_query[chosen], self._queries[places], query, spans if self.shared else None)


def _stretches(begin: Rows, end: Rows) -> tuple[Rows, Rows]:
    """All numbers of some ranges, one after the other, and the range that each is of."""
    lengths = end - begin
    which = np.repeat(np.arange(len(begin)), lengths)
    before = np.cumsum(lengths) - lengths
    return begin[which] + np.arange(len(which)) - before[which], which
