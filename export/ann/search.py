"""Exact and approximate search over item vectors, what the service returns, and recall."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from twinspire.export.ann.graph import Rows, Vectors
from twinspire.protos.errors import GateRefused
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.scores import least_found
from twinspire.protos.nearest.search import graph_width
from twinspire.train.evaluation.exact_search import search

Shares = npt.NDArray[np.float64]

_SCORES = 1 << 22  # inner products that exact search holds at once: 16 MiB
_BLOCK = 256  # queries whose results are scored at once


def exact(queries: Vectors, vectors: Vectors, k: int, seen: Sequence[Rows] | None = None) -> Rows:
    """The rows of the largest inner products, best first: (Q, min(k, N)).

    Args:
        seen: for each query the rows that must not be returned; -1 stands where there are no more.
    """
    items, step = torch.from_numpy(np.asarray(vectors)), max(1, _SCORES // len(vectors))
    found = np.empty((len(queries), min(k, len(vectors))), np.int64)
    for start in range(0, len(queries), step):
        some = slice(start, start + step)
        found[some] = search(torch.from_numpy(queries[some]), items, k, None if seen is None else seen[some])
    return found


def approximate(graph: CodedVectors, queries: Vectors, k: int, ef: int) -> Rows:
    """The rows that a search with `ef` in the graph finds, as the service searches it: (Q, min(k, N)).

    Raises:
        GateRefused: the graph is so disconnected that a query reaches fewer items.
    """
    k = min(k, len(graph.vectors))
    found, _, least = graph.search(queries, k, ef)
    if least < k:
        raise GateRefused(f"index: a search reaches fewer than {k} items; raise index.m")
    return found


def search_as_served(graph: CodedVectors, queries: Vectors, k: int, ef_search: int) -> Rows:
    """What the service returns: through the graph, or by exact search where the service does that.

    Returns:
        (Q, min(k, N)) rows, best first.
    """
    count = len(graph.vectors)
    width = graph_width(k, ef_search, count)
    if width is None:
        return exact(queries, graph.vectors, k)
    found, _, _ = graph.search(queries, min(k, count), width)
    short = np.flatnonzero(found[:, -1] < 0)  # the graph reaches fewer items
    found[short] = exact(queries[short], graph.vectors, k)
    return found


def kth_scores(vectors: Vectors, queries: Vectors, k: int) -> Shares:
    """The score of each query's k-th best item, less the tolerance for rounding: (Q,)."""
    last = exact(queries, vectors, k)[:, -1]
    return np.asarray(least_found(np.einsum("qd,qd->q", queries, vectors[last])), np.float64)


def shares_above(found: Rows, vectors: Vectors, queries: Vectors, bounds: Shares) -> Shares:
    """For each query the share of the found rows (Q, K) whose score reaches its bound (Q,): (Q,)."""
    shares = np.empty(len(queries))
    for start in range(0, len(queries), _BLOCK):
        some = slice(start, start + _BLOCK)
        scores = np.einsum("qd,qkd->qk", queries[some], vectors[found[some]])
        shares[some] = (scores >= bounds[some, None]).mean(axis=1)
    return shares


def recalls(found: Rows, vectors: Vectors, queries: Vectors, k: int) -> Shares:
    """recall@k of each query against exact search, (Q,).

    It compares scores, not rows: many items may share one vector, and each of them is as good.
    """
    k = min(k, len(vectors))
    return shares_above(found[:, :k], vectors, queries, kth_scores(vectors, queries, k))
