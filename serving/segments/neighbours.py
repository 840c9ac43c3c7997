"""Hits of several searches as one, and searches of an index of which some rows are deleted."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from twinspire.protos.nearest.search import compared_like, graph_width
from twinspire.serving.segments.vector_index import Neighbours, Rows, Vectors, none_of

SPARE = 8  # items to search for beyond those that are expected to be deleted
WIDER = 4  # factor of the number of items in a repeated search
STEP_ITEMS = 128  # that are compared with a query of D = 512 in 1 step (defined at `columns.TEST_STEPS`)

Mask = npt.NDArray[np.bool_]
Array = TypeVar("Array", Rows, Vectors)
Search = Callable[[Rows, int], Neighbours]  # places of queries, and k


def merged(first: Neighbours, second: Neighbours, k: int) -> Neighbours:
    """The best `k` of both; of equal scores, those of the first come first."""
    if not first.rows.shape[1]:
        return Neighbours(second.rows[:, :k], second.scores[:, :k])
    if not second.rows.shape[1]:
        return first
    rows = np.concatenate([first.rows, second.rows], axis=1)
    scores = np.concatenate([first.scores, second.scores], axis=1)
    order = (-scores).argsort(axis=1, kind="stable")[:, :k]
    return Neighbours(picked(rows, order), picked(scores, order))


def picked(array: Array, columns: npt.NDArray[np.intp]) -> Array:
    """`np.take_along_axis` along the second axis, in half of its time: (B, C) of (B, W)."""
    found: Array = array.ravel()[columns + np.arange(0, array.size, array.shape[1])[:, None]]
    return found


def remaining(
    search: Search, queries: Rows, k: int, deleted: Mask, deleted_count: int, count: int, ask: int = 0
) -> Neighbours:
    """The `k` nearest items that are not deleted, fewer if there are fewer.

    Args:
        queries: places of the queries (B,).
        k: items wanted.
        deleted: items that must not be found, by row.
        deleted_count: number of them among those that the search may find.
        count: items that the search may find.
        ask: items to ask for; 0 for a number that usually suffices.
    """
    if deleted_count == 0:
        return search(queries, k)
    want = min(k, count - deleted_count)
    if want == 0:
        return none_of(len(queries))
    # Among `want + deleted_count` items there are `want` for certain.
    ask = min(want + deleted_count, ask or _expected(want, deleted_count, count))
    found = search(queries, ask)
    is_deleted = deleted[found.rows]  # (B, ask)
    if not is_deleted.any():
        return Neighbours(found.rows[:, :want], found.scores[:, :want])
    order = is_deleted.argsort(axis=1, kind="stable")[:, :want]
    rows, scores = picked(found.rows, order), picked(found.scores, order)
    short = (np.count_nonzero(is_deleted, axis=1) > ask - want).nonzero()[0]
    if len(short):  # only they are searched more widely: an answer must not depend on the rest of its batch
        rows[short], scores[short] = remaining(
            search, queries[short], k, deleted, deleted_count, count, WIDER * ask
        )
    return Neighbours(rows, scores)


def remaining_of_all(
    search: Callable[[Vectors, int], Neighbours], deleted: Mask, deleted_count: int, vectors: Vectors, k: int
) -> Neighbours:
    """As `remaining`, of all items of an index, for vectors (B, D)."""
    return remaining(
        lambda queries, ask: search(vectors if len(queries) == len(vectors) else vectors[queries], ask),
        np.arange(len(vectors)),
        k,
        deleted,
        deleted_count,
        len(deleted),
    )


def _expected(want: int, deleted_count: int, count: int) -> int:
    """How many items to ask for, so that `want` of them are usually not deleted."""
    return min(want + deleted_count, want + SPARE + 2 * want * deleted_count // count)


def expected_cost(k: int, count: int, passing: int, ef_search: int | None) -> int:
    """The time of a search among the items that pass, in steps, as far as it is known before.

    A search that gives up in the graph and compares all that pass takes up to three times as long.

    Args:
        k: items wanted.
        count: N, all items.
        passing: R, items that pass.
        ef_search: of the graph; None if all items that pass are compared.
    """
    k = min(k, passing)
    width = None if ef_search is None else graph_width(k, ef_search, count, passing)
    return (passing if width is None else compared_like(width, count, passing)) // STEP_ITEMS if k else 0
