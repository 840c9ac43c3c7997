"""HNSW graphs over live items, for overlays that are too large to be compared item by item.

The process that derives records builds the graph on a thread of low priority and writes it beside them. The
workers load it. A graph covers the first rows of the overlay, and grows with them; outdated versions stay in
it, until the records are written anew.

Many equal vectors would cut a graph into parts. So it holds the first `COPIES` of them, and the others are
compared one by one. Vectors of one text from batches of different sizes may differ by rounding; they count
as equal. Its labels number the rows that it holds, which follow from the records alone.
"""

import logging
import os
import secrets
import sys
import threading
import time
from collections import Counter
from hashlib import blake2b
from pathlib import Path

import hnswlib
import numpy as np

from protos.bundle import Manifest
from serving.live.derived_records import RecordReader
from serving.live.record_format import RecordKind, RecordOrigin
from serving.live.search.overlay import OverlayGraph
from serving.retrieval.hnsw_file import read_graph
from serving.retrieval.hnsw_index import SPACE, HnswIndex
from serving.retrieval.vector_index import Rows, Vectors

log = logging.getLogger(__name__)

MIN_GRAPH_ITEMS = 2048  # live items from which on a graph is built
# The graph grows when at least STEP rows, and 1/SHARE of its own rows, are not in it yet.
STEP, SHARE = 512, 8
COPIES = 16  # equal vectors that a graph holds
# Vectors in one cell are equal; a cell is 2**-10 to 2**-11 of the largest coordinate, wide against rounding.
CELL_BITS = 11
M, EF_CONSTRUCTION = 12, 100
NARROWEST = 32  # ef of a search in a small graph
NICE = 10
RETRY_SECONDS = 60.0  # after a graph could not be built
CHUNK = 512  # rows between two checks of `stop`
SUFFIX = ".graph"


def graph_path(records: Path, generation: int) -> Path:
    """Where the graph of a generation of records is."""
    return records.with_name(f"{records.stem}.{generation:016x}{SUFFIX}")


class CopyCounter:
    """Counts equal vectors, to decide which rows of an overlay its graph holds."""

    def __init__(self) -> None:
        self._seen: Counter[bytes] = Counter()

    def count_and_admit(self, vector: bytes) -> bool:
        """Whether the graph holds a row: fewer than `COPIES` rows before it have its vector.

        Args:
            vector: of the row, float32 (D,) as bytes. Call this once for each row, in their order.
        """
        values = np.frombuffer(vector, np.float32)
        exponent = np.frexp(np.abs(values).max())[1]
        cell = np.rint(np.ldexp(values, CELL_BITS - exponent)) + 0.0  # -0 is 0
        digest = blake2b(cell.tobytes() + exponent.tobytes(), digest_size=16).digest()
        self._seen[digest] += 1
        return self._seen[digest] <= COPIES


def open_graph(path: Path, manifest: Manifest, vectors: Vectors) -> OverlayGraph | None:
    """The graph over the first of the overlay's rows; None if it has more rows than the overlay has yet.

    Args:
        path: of the file.
        manifest: of the bundle.
        vectors: of the overlay's rows, float32 (M, D).

    Raises:
        BundleDamaged: the file is not a graph over them.
    """
    graph = read_graph(path, SPACE, manifest.dimension)
    held, others = _rows(vectors, graph.get_current_count())
    if len(held) < graph.get_current_count():
        return None
    # A graph of at most half as many items is searched half as widely as the bundle's, and finds as much.
    ef = manifest.index.ef_search
    if 2 * len(held) <= manifest.count:
        ef = max(NARROWEST, ef // 2)
    searched = vectors[held] if len(others) else vectors[: len(held)]
    index = HnswIndex.of(searched, graph, ef, manifest.score.has_padding_dim, path)
    return OverlayGraph(index, held, others, vectors[others])


def _rows(vectors: Vectors, count: int) -> tuple[Rows, Rows]:
    """The first `count` rows that a graph holds, fewer if there are fewer, and the others among them."""
    copies = CopyCounter()
    held: list[int] = []
    others: list[int] = []
    for row, vector in enumerate(vectors):
        if len(held) == count:
            break
        (held if copies.count_and_admit(vector.tobytes()) else others).append(row)
    return np.array(held, np.int64), np.array(others, np.int64)


class GraphBuilder:
    """Builds the graph of one bundle's records; for the process that writes them.

    Args:
        path: of the records.
        origin: of the records.
        manifest: of the bundle.
        stop: when it is set, a graph that is being built is given up.
    """

    def __init__(self, path: Path, origin: RecordOrigin, manifest: Manifest, stop: threading.Event) -> None:
        self._path, self._origin, self._stop = path, origin, stop
        self._has_padding_dim = manifest.score.has_padding_dim
        self._thread: threading.Thread | None = None
        self._due = 0.0
        self._begin(0)

    def check(self, records: int, live_items: int, generation: int) -> None:
        """Start to build if enough has been added.

        Args:
            records: in the file.
            live_items: that they describe, each counted once.
            generation: of the file.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        if generation != self._generation:
            self._begin(generation)
        is_wanted = self._graph is not None or live_items >= MIN_GRAPH_ITEMS
        has_grown = records - self._read >= max(STEP, self._read // SHARE)
        if is_wanted and has_grown and time.monotonic() >= self._due:
            self._thread = threading.Thread(target=self._run, name="live-graph", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being built."""
        if self._thread is not None:
            self._thread.join()

    def _begin(self, generation: int) -> None:
        """Build the next graph from the first record on."""
        self._generation, self._read, self._rows = generation, 0, 0
        self._reader: RecordReader | None = None
        self._graph: hnswlib.Index | None = None
        self._copies = CopyCounter()

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            self._grow()
        except Exception:  # of any kind: the workers compare all items meanwhile
            log.exception("%s: no graph could be built", self._path)
            self._begin(self._generation)
            self._due = time.monotonic() + RETRY_SECONDS

    def _grow(self) -> None:
        if self._reader is None:
            self._reader = RecordReader(self._path, self._origin)
        if self._reader.generation != self._generation:  # the next `check` begins with the new generation
            return
        content: list[bytes] = []
        while self._reader.has_more and not self._stop.is_set():
            records, _ = self._reader.read()
            self._read += len(records)
            vectors = [each.vector for each in records if each.kind is RecordKind.ITEM]
            content += filter(self._copies.count_and_admit, vectors)
        if content:
            graph = self._added(np.frombuffer(b"".join(content), np.float32).reshape(len(content), -1))
            if self._rows >= MIN_GRAPH_ITEMS and not self._stop.is_set():
                self._write(graph)

    def _added(self, vectors: Vectors) -> hnswlib.Index:
        """The graph with more rows, float32 (R, D); its capacity is its size, as `read_graph` expects."""
        end = self._rows + len(vectors)
        if self._graph is None:
            self._graph = hnswlib.Index(SPACE, self._origin.dimension)
            self._graph.init_index(end, M=M, ef_construction=EF_CONSTRUCTION, random_seed=0)
        else:
            self._graph.resize_index(end)
        if self._has_padding_dim:  # queries have 0 there; the bundle's graph is built in the same way
            vectors = vectors.copy()
            vectors[:, -1] = 0
        rows = np.arange(self._rows, end)
        for start in range(0, len(rows), CHUNK):
            if self._stop.is_set():
                break
            some = slice(start, start + CHUNK)
            self._graph.add_items(vectors[some], rows[some], num_threads=1)
        self._rows = end
        return self._graph

    def _write(self, graph: hnswlib.Index) -> None:
        path = graph_path(self._path, self._generation)
        draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            graph.save_index(str(draft))
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
        for other in path.parent.glob(f"{self._path.stem}.*{SUFFIX}"):
            if other != path:
                other.unlink(missing_ok=True)
