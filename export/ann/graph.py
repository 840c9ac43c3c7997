"""Item vectors -> HNSW graph (Malkov and Yashunin 2018)."""

import errno
import tempfile
from pathlib import Path

import hnswlib
import numpy as np
import numpy.typing as npt

from twinspire.export.ann import duplicates
from twinspire.protos.bundle import IndexParameters, Score
from twinspire.protos.system.cores import thread_count

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

SPACE = "ip"  # the cosine of vectors of unit length is their inner product
COSINE = Score("cosine")
_BLOCK = 16_384  # rows added at once, if they have to be copied first


def build_graph(
    chosen: IndexParameters, vectors: Vectors, score: Score = COSINE, threads: int = 0
) -> hnswlib.Index:
    """Build an HNSW graph over the rows of `vectors` (N, D); row n has label n.

    If scores are not cosines, the last coordinate only pads an item to unit length, and queries have 0 there.
    The graph holds items with 0 there, too: no inner product changes, and links chosen by inner product give
    a much better recall than links chosen by the distance of padded vectors (Morozov and Babenko 2018).

    A vector that many items share is linked once, and its copies hang on it; see `duplicates`.

    Args:
        chosen: m, ef_construction and seed are used.
        threads: 0: see `thread_count`; with 1 the same vectors give the same bytes on one processor.
    """
    has_padding_dim = score.has_padding_dim
    threads = thread_count(threads)
    groups = duplicates.find_duplicates(vectors, has_padding_dim)
    if groups is None:
        return _built(vectors, None, chosen, has_padding_dim, threads)
    with tempfile.TemporaryDirectory(prefix="twinspire-") as name:
        distinct, complete = Path(name) / "distinct.hnsw", Path(name) / "complete.hnsw"
        save(_built(vectors, groups.distinct, chosen, has_padding_dim, threads), distinct)
        duplicates.attach_copies(distinct, complete, vectors, groups, has_padding_dim)
        distinct.unlink()
        graph = hnswlib.Index(SPACE, vectors.shape[1])
        graph.load_index(str(complete))
    return graph


def _built(
    vectors: Vectors, rows: Rows | None, chosen: IndexParameters, has_padding_dim: bool, threads: int
) -> hnswlib.Index:
    """A graph over some rows, or all; at most one block of vectors is copied at a time."""
    count = len(vectors) if rows is None else len(rows)
    graph = hnswlib.Index(SPACE, vectors.shape[1])
    graph.init_index(count, M=chosen.m, ef_construction=chosen.ef_construction, random_seed=chosen.seed)
    labels = np.arange(count) if rows is None else rows
    step = count if rows is None and not has_padding_dim else _BLOCK
    for start in range(0, count, step):
        some = labels[start : start + step]
        block = vectors[start : start + step] if rows is None else vectors[some]
        graph.add_items(_without_padding(block) if has_padding_dim else block, some, threads)
    return graph


def _without_padding(block: Vectors) -> Vectors:
    copied = block.copy()
    copied[:, -1] = 0
    return copied


def save(graph: hnswlib.Index, path: Path) -> None:
    """Write the graph. hnswlib does not store the search width.

    Raises:
        OSError: the file is incomplete, for example because the disk is full; hnswlib does not report that.
    """
    graph.save_index(str(path))
    expected, written = graph.index_file_size(), path.stat().st_size if path.exists() else 0
    if written != expected:
        raise OSError(errno.ENOSPC, f"hnswlib wrote {written:,} of {expected:,} bytes", str(path))


def links_size(graph: hnswlib.Index) -> float:
    """Bytes per item that the graph takes in addition to the item's vector."""
    count = graph.get_current_count()
    return float(graph.index_file_size() / count - 4 * graph.dim)
