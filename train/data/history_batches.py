"""Training batches for queries with histories.

All pairs of a query are in one batch, so that the query tower encodes each query once.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twinspire.train.data.batches import Batch, Spans
from twinspire.train.data.long_arrays import is_ascending, pieces
from twinspire.train.data.ranges import compact, concatenate_ranges, range_indices
from twinspire.train.data.training_data import Pairs

Rows = npt.NDArray[np.int64]
Drawn = tuple[Sequence[Rows], Callable[[Rows], Batch]]
BLOCK = 4_000_000  # pairs whose windows are in memory at a time, about


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
    (`mixed_log_q` of `train/losses/objectives.py`).

    More than `BLOCK` pairs whose queries ascend are divided into blocks of whole users, so that memory holds
    the windows of one block. A batch is of one block, and an epoch takes the blocks in a random order.

    Args:
        size: approximate number of pairs in a batch; windows are not split.
        shared: queries of a user share windows.
    """

    def __init__(self, pairs: Pairs, histories: HistoryRanges, size: int, shared: bool) -> None:
        self.size, self.shared = size, shared
        self._query, self._histories = pairs.query, histories
        self._cuts = _cuts_between_users(pairs.query, histories)
        self._block = lru_cache(maxsize=1)(self._make_block)
        self._drawn = lru_cache(maxsize=1)(self._draw_block)

    def draw(self, seed: tuple[int, int]) -> "DrawnBatches":
        """All pairs, in batches; the same seed gives the same batches."""
        blocks = len(self._cuts) - 1
        if blocks == 1:
            return DrawnBatches([partial(self._drawn, 0, seed)])
        order = np.random.default_rng(seed).permutation(blocks).tolist()
        return DrawnBatches([partial(self._drawn, block, (*seed, block)) for block in order])

    def _draw_block(self, block: int, seed: tuple[int, ...]) -> Drawn:
        return self._block(block).draw(np.random.default_rng(seed))

    def _make_block(self, block: int) -> "_Block":
        begin, end = self._cuts[block : block + 2]
        return _Block(begin, self._query[begin:end], self._histories, self.size, self.shared)


def _cuts_between_users(query: Rows, histories: HistoryRanges) -> list[int]:
    """The first pair of each block, and the number of pairs.

    Args:
        query: (P,), the query of each pair.
    """
    if not is_ascending(query):
        return [0, len(query)]
    cuts = [0]
    # The last block takes a small rest: a batch needs two pairs.
    while len(query) - cuts[-1] - BLOCK >= max(2, BLOCK // 2):
        cuts.append(_next_user(query, histories.begin, cuts[-1] + BLOCK))
    if len(cuts) > 1 and len(query) - cuts[-1] < max(2, BLOCK // 2):
        cuts.pop()
    return [*cuts, len(query)]


def _next_user(query: Rows, begin: Rows, pair: int) -> int:
    """The first pair from `pair` on that is of another user than the pair before it."""
    user = begin[query[pair - 1]]  # the histories of one user begin at the same place
    for piece in pieces(query[pair:]):
        is_other = begin[piece] != user
        if is_other.any():
            return pair + int(is_other.argmax())
        pair += len(piece)
    return pair


class _Block:
    """The pairs of some users, in batches.

    Args:
        first_pair: number of the first one.
        query: (P,), the query of each pair.
        size, shared: as of `HistoryBatches`.
    """

    def __init__(
        self, first_pair: int, query: Rows, histories: HistoryRanges, size: int, shared: bool
    ) -> None:
        self.size, self.shared = size, shared
        self._first_pair = first_pair
        # Arrays of all queries are int32 where that holds them; `_batch` returns int64.
        query = compact(query)
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

    def draw(self, generator: np.random.Generator) -> Drawn:
        """The windows of each batch, and the function from some windows to their batch."""
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
        return chunks, lambda chunk: self._batch(chunk, starts, stops, first, end)

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
        pairs, queries = self._by_query[chosen].astype(np.int64), self._queries[places]
        return Batch(self._first_pair + pairs, queries.astype(np.int64), query, spans)


class DrawnBatches:
    """The batches of an epoch, each made when it is read.

    Args:
        blocks: one for each block of pairs.
    """

    def __init__(self, blocks: Sequence[Callable[[], Drawn]]) -> None:
        self._blocks = blocks
        self._counts = [len(block()[0]) for block in blocks]

    def __len__(self) -> int:
        return sum(self._counts)

    def __iter__(self) -> Iterator[Batch]:
        return self.after(0)

    def after(self, done: int) -> Iterator[Batch]:
        """All batches but the first `done`."""
        for count, block in zip(self._counts, self._blocks, strict=True):
            if done < count:
                windows, make = block()
                yield from map(make, windows[done:])
            done = max(0, done - count)


def _runs(numbers: Rows) -> tuple[Rows, Rows]:
    """Of each run of equal numbers, the place of the first, and the number."""
    first = compact(np.flatnonzero(np.r_[True, numbers[1:] != numbers[:-1]]))
    return first, numbers[first]
