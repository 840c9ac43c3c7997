"""Training pairs grouped into batches, one batch a training step.

`batches` shuffles single pairs. `HistoryBatches` is for queries with histories: it keeps all pairs of a query
in one batch, so that the query tower encodes each query once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twinspire.train.data.ranges import compact, concatenate_ranges, range_indices
from twinspire.train.data.training_data import Pairs

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """The windows of one batch, as ranges of the array that holds all histories one after another.

    Args:
        begin: int64 (W,), index of each window's first item.
        end: int64 (W,), index after its last item.
        window: int64 (B,), the window of each query.
        last: int64 (B,), index after the last item of each query's history; equal to the window's `begin`
            where the history is empty.
    """

    begin: Rows
    end: Rows
    window: Rows
    last: Rows


@dataclass(frozen=True)
class Batch:
    """The pairs and queries of one training step, or of one process's share of it.

    Args:
        pairs: int64 (P,), indices of training pairs.
        queries: int64 (B,), query rows; distinct where queries have histories.
        query: int64 (P,), for each pair the index of its query in `queries`.
        spans: the windows, where several queries share one.
        step_pairs: pairs of the whole step, of which `pairs` may be a share; None if they are all.
    """

    pairs: Rows
    queries: Rows
    query: Rows
    spans: Spans | None = None
    step_pairs: int | None = None

    @property
    def size(self) -> int:
        """Pairs of the whole step."""
        return len(self.pairs) if self.step_pairs is None else self.step_pairs

    @property
    def window(self) -> Rows:
        """int64 (P,): for each pair the number of its window; without `spans`, each query is a window."""
        return self.query if self.spans is None else self.spans.window[self.query]

    def share(self, rank: int, count: int) -> "tuple[Batch, Rows]":
        """Every `count`-th query, or window of queries, from `rank` on, with its pairs.

        Returns:
            The share, and the places of its pairs in `pairs`, ascending. Both may be empty.
        """
        of_query = np.arange(len(self.queries)) if self.spans is None else self.spans.window
        queries = np.flatnonzero(of_query % count == rank)
        pairs = np.flatnonzero(of_query[self.query] % count == rank)
        spans = self.spans
        if spans is not None:
            windows = slice(rank, None, count)
            spans = Spans(
                spans.begin[windows], spans.end[windows], spans.window[queries] // count, spans.last[queries]
            )
        number = np.zeros(len(self.queries), np.int64)
        number[queries] = np.arange(len(queries))
        query = number[self.query[pairs]]
        return Batch(self.pairs[pairs], self.queries[queries], query, spans, self.size), pairs


def batches(count: int, queries: Rows, size: int, seed: tuple[int, int]) -> Iterator[Batch]:
    """All pairs in random order, `size` at a time; a last batch of one pair is dropped: it has no negatives.

    Args:
        queries: int64 (count,), the query row of each pair.
        seed: of the order; the same seed gives the same batches.
    """
    order = np.random.default_rng(seed).permutation(count)
    for at in range(0, count, size):
        chosen = order[at : at + size]
        if len(chosen) < 2:
            return
        yield Batch(chosen, queries[chosen], np.arange(len(chosen)))


def batch_count(pairs: int, size: int) -> int:
    """Number of batches that `batches` yields."""
    return pairs // size + (pairs % size >= 2)


class HistoryRanges(Protocol):
    """Each query's history as a range of the array that holds all histories one after another."""

    @property
    def begin(self) -> Rows:
        """(Q,), integers: index of each history's first item; queries of one user have the same."""

    @property
    def end(self) -> Rows:
        """(Q,), integers: index after its last item."""

    @property
    def max_length(self) -> int:
        """Items that a tower reads of a history, the newest."""


class HistoryBatches:
    """Batches of whole windows of users' histories, in which every position may be a query.

    The cuts between a user's windows are drawn anew for each epoch, so that the model meets an item at every
    position of a window. Without sharing, each query has a window of its own with its whole history.

    Given a query, the items of its own window are in its step with certainty, and they are no random draw:
    its user takes most of them next. Losses that sample negatives from a step consider this
    (`mixed_log_q` of `train/losses/kinds.py`).

    Args:
        size: approximate number of pairs in a batch; windows are not split.
        shared: queries of a user share windows.
    """

    def __init__(self, pairs: Pairs, histories: HistoryRanges, size: int, shared: bool) -> None:
        self.size = size
        self.shared = shared
        # Arrays of all queries are int32 where that holds them; `_batch` returns int64.
        query = compact(pairs.query)
        self._by_query = compact(np.argsort(query, kind="stable"))
        first, queries = _runs(query[self._by_query])
        count = np.diff(first, append=first.dtype.type(len(query)))
        order = compact(np.lexsort((histories.end[queries], histories.begin[queries])))
        self._first, self._count, self._queries = first[order], count[order], queries[order]
        self._begin, self._end = (
            compact(histories.begin[self._queries]),
            compact(histories.end[self._queries]),
        )
        self._length = histories.max_length

    def draw(self, seed: tuple[int, int]) -> "DrawnBatches":
        """All pairs, in batches; the same seed gives the same batches."""
        generator = np.random.default_rng(seed)
        window, begin = self._windows(generator)
        starts, _ = _runs(window)  # each window's first query
        stops = np.append(starts[1:], starts.dtype.type(len(window)))
        # Windows of similar length share a batch, so that little of it is padding; the noise varies batches.
        lengths = self._end[stops - 1] - begin[starts]
        noisy = lengths + generator.normal(0, 0.1 * self._length, len(lengths))
        order = compact(np.argsort(noisy, kind="stable"))
        pairs = np.add.reduceat(self._count, starts)[order]
        chunks = np.split(order, self._cuts(pairs))
        generator.shuffle(chunks)
        first, end = begin[starts], self._end[stops - 1]
        return DrawnBatches(chunks, lambda chunk: self._batch(chunk, starts, stops, first, end))

    def _windows(self, generator: np.random.Generator) -> tuple[Rows, Rows]:
        """For each query, in order, the number of its window and the index of the window's first item."""
        if not self.shared:
            earliest = np.maximum(self._begin, self._end - self._length)
            return np.arange(len(self._queries)), earliest
        users, user = np.unique(self._begin, return_inverse=True)
        longest = np.zeros(len(users), np.int64)
        np.maximum.at(longest, user, self._end - self._begin)
        offset = np.where(
            longest > self._length, generator.integers(1, self._length + 1, len(users)), self._length
        )[user]
        behind = self._end - self._begin - offset  # above 0 where the user's first cut precedes the query
        number = np.maximum(0, -(-behind // self._length))
        begin = self._begin + np.where(number > 0, offset + (number - 1) * self._length, 0)
        key = user.astype(np.int64) * (int(number.max(initial=0)) + 1) + number
        return key, begin

    def _cuts(self, pairs: Rows) -> Rows:
        """Where to cut the list of windows into batches of at least two pairs; one pair has no negatives.

        Args:
            pairs: number of pairs of each window.
        """
        cuts = np.flatnonzero(np.diff((np.cumsum(pairs) - 1) // self.size)) + 1
        held = np.add.reduceat(pairs, np.r_[0, cuts])
        if held[0] < 2:
            cuts, held = cuts[1:], held[1:]
        return cuts[held[1:] >= 2]

    def _batch(self, windows: Rows, starts: Rows, stops: Rows, begin: Rows, end: Rows) -> Batch:
        """A batch of some windows.

        Args:
            starts, stops: (W,), the first query of each window, and the one after its last.
            begin, end: (W,), as in `Spans`.
        """
        lengths = stops[windows] - starts[windows]
        places, window = concatenate_ranges(starts[windows], lengths), range_indices(lengths)
        count = self._count[places]
        chosen, query = concatenate_ranges(self._first[places], count), range_indices(count)
        first, stop, last = (
            each.astype(np.int64) for each in (begin[windows], end[windows], self._end[places])
        )
        spans = Spans(first, stop, window, last) if self.shared else None
        pairs, queries = self._by_query[chosen], self._queries[places]
        return Batch(pairs.astype(np.int64), queries.astype(np.int64), query, spans)


@dataclass(frozen=True)
class DrawnBatches:
    """The batches of an epoch, each made when it is read.

    Args:
        windows: of each batch.
        make: from some windows to their batch.
    """

    windows: Sequence[Rows]
    make: Callable[[Rows], Batch]

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.make, self.windows)


def _runs(numbers: Rows) -> tuple[Rows, Rows]:
    """Of each run of equal numbers, the place of the first, and the number."""
    first = compact(np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]))
    return first, numbers[first]
