"""Item vectors into an HNSW graph (Malkov and Yashunin 2018), and its parameters into a manifest."""

import errno
import os
import tempfile
from pathlib import Path

import hnswlib
import numpy as np
import numpy.typing as npt

from export.index import copies
from protos.bundle import IndexParameters, Score
from train.config.index import IndexConfig

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

SPACE = "ip"  # cosines are products of vectors of unit length
COSINE = Score("cosine")
USUAL_M = 16  # where neither configuration nor tuner says anything
USUAL_EF_CONSTRUCTION = 200
_BLOCK = 16_384  # rows handed over at once where they cannot be taken as they lie


def build(vectors: Vectors, config: IndexConfig, score: Score = COSINE) -> hnswlib.Index:
    """`build_as`, by a configuration; where it leaves m or ef_construction to the tuner, 16 and 200."""
    return build_as(parameters(config, config.k), vectors, score, config.threads)


def build_as(
    chosen: IndexParameters, vectors: Vectors, score: Score = COSINE, threads: int = 0
) -> hnswlib.Index:
    """An HNSW graph over the rows of `vectors` (N, D); row n is label n.

    Where scores are not cosines, the last coordinate only fills an item up to unit length, and a query has
    a zero there. In the graph the items have one, too: no product changes, and links that go by product
    find far more than links that go by distance after filling up (Morozov and Babenko 2018).

    Vectors that many items share are linked once, and the items' copies hang on it; see `copies`.

    Args:
        chosen: m, ef_construction and seed; how it is searched is no matter here.
        threads: 0 takes all cores; with 1 the same vectors give the same bytes on one processor.
    """
    filled = score.kind != COSINE.kind
    threads = threads or os.cpu_count() or 1
    groups = copies.find(vectors, filled)
    if groups is None:
        return _grown(vectors, None, chosen, filled, threads)
    with tempfile.TemporaryDirectory(prefix="twinspire-") as name:
        bare, whole = Path(name) / "bare.hnsw", Path(name) / "whole.hnsw"
        save(_grown(vectors, groups.distinct, chosen, filled, threads), bare)
        copies.attach(bare, whole, vectors, groups, filled)
        bare.unlink()
        graph = hnswlib.Index(SPACE, vectors.shape[1])
        graph.load_index(str(whole))
    return graph


def _grown(
    vectors: Vectors, rows: Rows | None, chosen: IndexParameters, filled: bool, threads: int
) -> hnswlib.Index:
    """A graph over some rows, or all, with no copy of them beside its own but a block at a time."""
    count = len(vectors) if rows is None else len(rows)
    graph = hnswlib.Index(SPACE, vectors.shape[1])
    graph.init_index(count, M=chosen.m, ef_construction=chosen.ef_construction, random_seed=chosen.seed)
    labels = np.arange(count) if rows is None else rows
    step = count if rows is None and not filled else _BLOCK
    for start in range(0, count, step):
        some = labels[start : start + step]
        block = vectors[start : start + step] if rows is None else vectors[some]
        graph.add_items(_without_filling(block) if filled else block, some, threads)
    return graph


def _without_filling(block: Vectors) -> Vectors:
    bare = block.copy()
    bare[:, -1] = 0
    return bare


def save(graph: hnswlib.Index, path: Path) -> None:
    """Write the graph; hnswlib leaves the search width out.

    Raises:
        OSError: it was not written whole, for example because the disk is full. hnswlib does not notice that.
    """
    graph.save_index(str(path))
    expected, written = graph.index_file_size(), path.stat().st_size if path.exists() else 0
    if written != expected:
        raise OSError(errno.ENOSPC, f"hnswlib wrote {written:,} of {expected:,} bytes", str(path))


def links_size(graph: hnswlib.Index) -> float:
    """Bytes an item that the graph takes beyond the item's vector."""
    count = graph.get_current_count()
    return float(graph.index_file_size() / count - 4 * graph.dim)


def parameters(config: IndexConfig, ef_search: int, exact: bool = False) -> IndexParameters:
    """What a manifest says of the index."""
    m, ef_construction = config.m or USUAL_M, config.ef_construction or USUAL_EF_CONSTRUCTION
    return IndexParameters(SPACE, m, ef_construction, ef_search, config.seed, exact)
