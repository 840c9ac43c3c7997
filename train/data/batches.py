"""Training pairs grouped into batches, one batch a training step.

`batches` shuffles single pairs. `HistoryBatches` (`history_batches.py`) is for queries with histories.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
