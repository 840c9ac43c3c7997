"""Searches in vectors and in a graph over them, and recall of the one against the other."""

from collections.abc import Sequence

import hnswlib
import numpy as np
import numpy.typing as npt
import torch

from export.index.graph import Rows, Vectors
from protos.beam import graph_width
from protos.errors import GateRefused
from protos.scores import SCORE_TOLERANCE
from train.evaluation import search

Shares = npt.NDArray[np.float64]

_SCORES = 1 << 22  # products that exact search holds at once: 16 MiB, whatever the catalogue's size
_BLOCK = 256  # queries whose found vectors are gathered at once


def exact(queries: Vectors, vectors: Vectors, k: int, seen: Sequence[Rows] | None = None) -> Rows:
    """(Q, min(k, N)) rows of the largest inner products, best first.

    Args:
        seen: for each query the rows that are no answer to it; -1 stands where there are no others.
    """
    items, step = torch.from_numpy(np.asarray(vectors)), max(1, _SCORES // len(vectors))
    found = np.empty((len(queries), min(k, len(vectors))), np.int64)
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        found[some] = search(torch.from_numpy(queries[some]), items, k, None if seen is None else seen[some])
    return found


def approximate(index: hnswlib.Index, queries: Vectors, k: int, ef: int, threads: int = 1) -> Rows:
    """(Q, min(k, N)) rows as the graph finds them with a search width of `ef`.

    Raises:
        GateRefused: the graph is so torn that a query reaches fewer items than that.
    """
    k = min(k, index.get_current_count())
    index.set_ef(max(ef, k))
    try:
        labels, _ = index.knn_query(queries, k, num_threads=threads)
    except RuntimeError:
        raise GateRefused(f"index: a search reaches fewer than {k} items; raise index.m") from None
    return np.asarray(labels, np.int64)


def served(
    index: hnswlib.Index,
    queries: Vectors,
    vectors: Vectors,
    k: int,
    ef_search: int,
    seen: Sequence[Rows],
    everything: bool = False,
) -> Rows:
    """What the service answers: through the graph where it would go there, else by exact search.

    Args:
        vectors: (N, D), of the items.
        seen: for each query the rows that are no answer to it; the search looks that much farther.
        everything: every search compares with every item, as `IndexParameters.exact` says of a bundle.

    Returns:
        (Q, min(k, N)) rows, best first, -1 where there are no others.
    """
    count = len(vectors)
    found = np.full((len(queries), min(k, count)), -1, np.int64)
    lengths = np.fromiter(map(len, seen), np.int64, len(seen))
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length).tolist()
        width = graph_width(k + int(length), ef_search, count, everything)
        if width is None:
            found[same] = exact(queries[same], vectors, k, [seen[query] for query in same])
            continue
        for query, labels in zip(same, approximate(index, queries[same], width, ef_search), strict=True):
            kept = labels[~np.isin(labels, seen[query])][: found.shape[1]]
            found[query, : len(kept)] = kept
    return found


def least_scores(vectors: Vectors, queries: Vectors, k: int) -> Shares:
    """(Q,) the score of the k-th best item of each query, less the rounding error that scores may have.

    The rounding error is `SCORE_TOLERANCE`, times the score where that exceeds 1.
    """
    last = exact(queries, vectors, k)[:, -1]
    bound = np.einsum("qd,qd->q", queries, vectors[last])
    return np.asarray(bound - SCORE_TOLERANCE * np.maximum(1, np.abs(bound)), np.float64)


def shares_above(found: Rows, vectors: Vectors, queries: Vectors, least: Shares) -> Shares:
    """(Q,) the share of the found rows (Q, K) that score enough."""
    shares = np.empty(len(queries))
    for start in range(0, len(queries), _BLOCK):
        some = slice(start, start + _BLOCK)
        scores = np.einsum("qd,qkd->qk", queries[some], vectors[found[some]])
        shares[some] = (scores >= least[some, None]).mean(axis=1)
    return shares


def recalls(found: Rows, vectors: Vectors, queries: Vectors, k: int) -> Shares:
    """(Q,) recall@k against exact search by score: an equal score is as good as the same row.

    Many items may share one vector; which of them is returned is nobody's fault.
    """
    k = min(k, len(vectors))
    return shares_above(found[:, :k], vectors, queries, least_scores(vectors, queries, k))
