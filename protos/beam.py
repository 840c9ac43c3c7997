"""How items are searched: how far in the graph, or by comparing with every one of them.

The service searches so, the evaluation measures it so, and the tuner chooses between the two.
"""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

EXACT_SHARE = 8  # from an eighth of the catalogue on, comparing with all of it is as fast as the graph
BLOCK = 16  # queries that exact search scores at once: bounds memory to 16 N floats


def graph_width(k: int, ef_search: int, count: int, exact: bool = False) -> int | None:
    """How many items to ask the graph for, to have its best `k`: its beam is at least twice as wide as k.

    hnswlib searches with the larger of ef and k, so asking for more, and keeping the best, widens the beam
    of one call alone; setting ef would change that of every other thread.

    Args:
        k: items wanted, excluded ones among them.
        ef_search: of the bundle.
        count: N, items in the graph.
        exact: of the bundle: whether its catalogue is so small that the graph is never faster.

    Returns:
        the number, or None where comparing with every item is as fast and misses nothing.
    """
    k = min(k, count)
    width = k if 2 * k <= ef_search else min(2 * k, count)
    return None if exact or width * EXACT_SHARE >= count else width


def exact_search(queries: Vectors, items: Vectors, k: int) -> tuple[Rows, Vectors]:
    """The items of the largest inner products; among equals the lower row is first.

    Args:
        queries: float32 (B, D).
        items: float32 (N, D).
        k: items wanted.

    Returns:
        rows int64 (B, min(k, N)) and products float32 (B, min(k, N)), best first.
    """
    k = min(k, len(items))
    rows = np.empty((len(queries), k), np.int64)
    products = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), BLOCK):
        stop = start + BLOCK
        scores = queries[start:stop] @ items.T  # (BLOCK, N)
        rows[start:stop] = nearest(scores, k)
        products[start:stop] = np.take_along_axis(scores, rows[start:stop], axis=1)
    return rows, products


def nearest(scores: Vectors, k: int) -> Rows:
    """Columns of the `k` highest scores of each row, best first, the lower one among equals.

    Args:
        scores: float32 (B, N).
        k: at most N.

    Returns:
        int64 (B, k).
    """
    if k < scores.shape[1]:
        threshold = np.partition(scores, -k, axis=1)[:, -k]  # (B,)
    else:
        threshold = scores.min(axis=1)
    best = np.empty((len(scores), k), np.int64)
    for row, (values, least) in enumerate(zip(scores, threshold, strict=True)):
        candidates = np.flatnonzero(values >= least)
        best[row] = candidates[np.argsort(-values[candidates], kind="stable")[:k]]
    return best
