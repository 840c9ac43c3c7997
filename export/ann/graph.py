"""Item vectors -> HNSW graph (Malkov and Yashunin 2018)."""

import tempfile
from pathlib import Path

import hnswlib
import numpy as np
import numpy.typing as npt

from twinspire.export.ann import duplicates
from twinspire.protos.bundle import IndexParameters, Score, whole_file
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.nearest.coded_vectors import CodedVectors
from twinspire.protos.nearest.links import Links, read_hnswlib
from twinspire.protos.system.cores import thread_count

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

SPACE = "ip"  # the cosine of vectors of unit length is their inner product
COSINE = Score("cosine")
_BLOCK = 16_384  # rows added at once, if they have to be copied first


def build_graph(
    chosen: IndexParameters, vectors: Vectors, score: Score = COSINE, threads: int = 0
) -> CodedVectors:
    """Build an HNSW graph over the rows of `vectors` (N, D).

    hnswlib builds it, and its links are searched by the code that the service searches with.

    If scores are not cosines, the last coordinate only pads an item to unit length, and queries have 0 there.
    The graph is that of items with 0 there, too: no inner product changes, and links chosen by inner product
    give a much better recall than links chosen by the distance of padded vectors (Morozov and Babenko 2018).

    A vector that many items share is linked once, and its copies hang on it; see `duplicates`.

    Args:
        chosen: m, ef_construction and seed are used.
        threads: 0: see `thread_count`; with 1 the same vectors give the same bytes on one processor.
    """
    has_padding_dim = score.has_padding_dim
    threads = thread_count(threads)
    groups = duplicates.find_duplicates(vectors, has_padding_dim)
    if groups is None:
        links = _links(vectors, None, chosen, has_padding_dim, threads)
    else:
        distinct = _links(vectors, groups.distinct, chosen, has_padding_dim, threads)
        links = duplicates.attach_copies(distinct, vectors, groups, has_padding_dim)
    return CodedVectors(vectors, has_padding_dim, links)


def _links(
    vectors: Vectors, rows: Rows | None, chosen: IndexParameters, has_padding_dim: bool, threads: int
) -> Links:
    """The links of a graph over some rows, numbered from 0, or all; one block of vectors is copied at a time.

    Raises:
        OSError: hnswlib's file is incomplete, for example because the disk is full.
    """
    count = len(vectors) if rows is None else len(rows)
    graph = hnswlib.Index(SPACE, vectors.shape[1])
    graph.init_index(count, M=chosen.m, ef_construction=chosen.ef_construction, random_seed=chosen.seed)
    step = count if rows is None and not has_padding_dim else _BLOCK
    for start in range(0, count, step):
        some = slice(start, start + step)
        block = vectors[some] if rows is None else vectors[rows[some]]
        labels = np.arange(start, start + len(block))
        graph.add_items(without_padding(block) if has_padding_dim else block, labels, threads)
    with tempfile.TemporaryDirectory(prefix="twinspire-") as folder:
        path = Path(folder) / "graph"
        graph.save_index(str(path))
        try:
            return read_hnswlib(path, vectors.shape[1])
        except BundleDamaged as error:
            raise OSError(
                f"hnswlib wrote an incomplete file into {folder}, is the disk full? TMPDIR names another "
                f"folder ({error})"
            ) from None


def without_padding(block: Vectors) -> Vectors:
    """A copy of vectors (N, D) with 0 in the last coordinate."""
    copied = block.copy()
    copied[:, -1] = 0
    return copied


def save(graph: CodedVectors, path: Path) -> None:
    """Write the links of a graph."""
    with whole_file(path) as file:
        np.save(file, graph.links)
