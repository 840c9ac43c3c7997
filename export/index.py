"""Item vectors into an HNSW graph, and the search width that its recall needs.

`ef_search` is the smallest on a ladder whose recall@k against exact search reaches the target on validation
queries, with two standard errors and a little more to spare; what is reported is measured on test queries.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt
import torch

from protos.beam import graph_width
from protos.bundle import IndexParameters, Score
from protos.errors import GateRefused
from train.config import IndexConfig
from train.evaluation import search

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

SPACE = "ip"  # cosines are products of vectors of unit length
COSINE = Score("cosine")
EF_LADDER = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)
SPARE = 0.005  # of recall beyond the target: test queries are harder than validation queries at times
_BLOCK = 256


def build(vectors: Vectors, config: IndexConfig, score: Score = COSINE) -> hnswlib.Index:
    """An HNSW graph over the rows of `vectors` (N, D); row n is label n.

    Where scores are not cosines, the last coordinate only fills an item up to unit length, and a query has
    a zero there. In the graph the items have one, too: no product changes, and links that go by product
    find far more than links that go by distance after filling up (Morozov and Babenko 2018).
    """
    if score.kind != COSINE.kind:
        vectors = vectors.copy()
        vectors[:, -1] = 0
    index = hnswlib.Index(SPACE, vectors.shape[1])
    index.init_index(
        len(vectors),
        M=config.m,
        ef_construction=config.ef_construction,
        random_seed=config.seed,
    )
    index.add_items(vectors, np.arange(len(vectors)), config.threads or os.cpu_count() or 1)
    return index


def exact(queries: Vectors, vectors: Vectors, k: int, seen: Sequence[Rows] | None = None) -> Rows:
    """(Q, min(k, N)) rows of the largest inner products, best first.

    Args:
        seen: for each query the rows that are no answer to it; -1 stands where there are no others.
    """
    return search(torch.from_numpy(queries), torch.from_numpy(vectors), k, seen)


def approximate(index: hnswlib.Index, queries: Vectors, k: int, ef: int) -> Rows:
    """(Q, min(k, N)) rows as the graph finds them with a search width of `ef`, on one thread.

    Raises:
        GateRefused: the graph is so torn that a query reaches fewer items than that.
    """
    k = min(k, index.get_current_count())
    index.set_ef(max(ef, k))
    try:
        labels, _ = index.knn_query(queries, k, num_threads=1)
    except RuntimeError:
        raise GateRefused(f"index: a search reaches fewer than {k} items; raise index.m") from None
    return np.asarray(labels, np.int64)


def served(
    index: hnswlib.Index, queries: Vectors, vectors: Vectors, k: int, ef_search: int, seen: Sequence[Rows]
) -> Rows:
    """What the service answers: through the graph where it would go there, else by exact search.

    Args:
        vectors: (N, D), of the items.
        seen: for each query the rows that are no answer to it; the search looks that much farther.

    Returns:
        (Q, min(k, N)) rows, best first, -1 where there are no others.
    """
    count = len(vectors)
    found = np.full((len(queries), min(k, count)), -1, np.int64)
    lengths = np.fromiter(map(len, seen), np.int64, len(seen))
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length).tolist()
        width = graph_width(k + int(length), ef_search, count)
        if width is None:
            found[same] = exact(queries[same], vectors, k, [seen[query] for query in same])
            continue
        for query, labels in zip(same, approximate(index, queries[same], width, ef_search), strict=True):
            kept = labels[~np.isin(labels, seen[query])][: found.shape[1]]
            found[query, : len(kept)] = kept
    return found


def recalls(found: Rows, vectors: Vectors, queries: Vectors, k: int) -> npt.NDArray[np.float64]:
    """(Q,) recall@k against exact search by score: an equal score is as good as the same row.

    Many items may share one vector; which of them is returned is nobody's fault.
    """
    truth = exact(queries, vectors, k)
    k = truth.shape[1]
    bound = np.einsum("qd,qd->q", queries, vectors[truth[:, -1]])
    scores = np.einsum("qd,qkd->qk", queries, vectors[found[:, :k]])
    least = bound - 1e-6 * np.maximum(1, np.abs(bound))
    return np.asarray((scores >= least[:, None]).sum(axis=1) / k, np.float64)


@dataclass(frozen=True)
class Tuned:
    """A search width, and how it was come by.

    Args:
        ef_search: the width.
        reached: whether it reaches the target.
        curve: for each width tried `ef`, `recall`, `us_per_query`.
    """

    ef_search: int
    reached: bool
    curve: Sequence[dict[str, Any]]


def tune(index: hnswlib.Index, vectors: Vectors, queries: Vectors, config: IndexConfig) -> Tuned:
    """The smallest search width that reaches the target on these queries.

    The ladder is walked one rung past the choice, so that the curve shows what it is a choice between.
    """
    curve: list[dict[str, Any]] = []
    chosen = 0
    for ef in (config.k, *(ef for ef in EF_LADDER if ef > config.k)):
        begun = time.perf_counter()
        found = approximate(index, queries, config.k, ef)
        taken = time.perf_counter() - begun
        each = recalls(found, vectors, queries, config.k)
        error = float(each.std() / len(each) ** 0.5)
        point = {"ef": ef, "recall": float(each.mean()), "standard_error": error}
        curve.append(point | {"us_per_query": 1e6 * taken / len(queries)})
        if chosen:
            break
        if enough(point, config.recall_target):
            chosen = ef
        if ef >= len(vectors):
            break
    return Tuned(chosen or curve[-1]["ef"], bool(chosen), curve)


def enough(point: Mapping[str, float], target: float) -> bool:
    """Whether a width is to be trusted with queries that it was not chosen on."""
    bound = target + SPARE if target + SPARE <= 1 else target
    return point["recall"] - 2 * point["standard_error"] >= bound


def save(index: hnswlib.Index, path: Path) -> None:
    """Write the graph; hnswlib leaves the search width out."""
    index.save_index(str(path))


def parameters(config: IndexConfig, ef_search: int) -> IndexParameters:
    """What a manifest says of the index."""
    return IndexParameters(SPACE, config.m, config.ef_construction, ef_search, config.seed)
