"""Builds the HNSW graphs over live items, in the process that encodes them.

A graph is built on a thread of low priority, and written beside them; the workers load it
(`serving/segments/growing_graph.py`).
"""

import logging
import os
import secrets
import sys
import threading
import time
from pathlib import Path

import hnswlib
import numpy as np

from twinspire.protos.bundle import Manifest
from twinspire.serving.live.encoded_items import EncodedItemsReader, EncodedOrigin, graph_path
from twinspire.serving.segments.growing_graph import CopyCounter
from twinspire.serving.segments.packed_items import EncodedKind
from twinspire.serving.segments.vector_index import SPACE, Vectors

log = logging.getLogger(__name__)

MIN_GRAPH_ITEMS = 2048  # live items from which on a graph is built
# The graph grows when at least STEP rows, and 1/SHARE of its own rows, are not in it yet.
STEP, SHARE = 512, 8
M, EF_CONSTRUCTION = 12, 100
NICE = 10
RETRY_SECONDS = 60.0  # after a graph could not be built
CHUNK = 512  # rows between two checks of `stop`


class GraphBuilder:
    """Builds the graph over one bundle's encoded items; for the process that writes them.

    Args:
        folder: of the encoded items.
        origin: of the encoded items.
        manifest: of the bundle.
        stop: when it is set, a graph that is being built is given up.
    """

    def __init__(
        self, folder: Path, origin: EncodedOrigin, manifest: Manifest, stop: threading.Event
    ) -> None:
        self._folder, self._origin, self._stop = folder, origin, stop
        self._has_padding_dim = manifest.score.has_padding_dim
        self._thread: threading.Thread | None = None
        self._due = 0.0
        self._begin(0)

    def check(self, rows: int, live_items: int, generation: int) -> None:
        """Start to build if enough has been added.

        Args:
            rows: in the file.
            live_items: that they describe, each counted once.
            generation: of the file.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        if generation != self._generation:
            self._begin(generation)
        is_wanted = self._graph is not None or live_items >= MIN_GRAPH_ITEMS
        has_grown = rows - self._read >= max(STEP, self._read // SHARE)
        if is_wanted and has_grown and time.monotonic() >= self._due:
            self._thread = threading.Thread(target=self._run, name="live-graph", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being built."""
        if self._thread is not None:
            self._thread.join()

    def _begin(self, generation: int) -> None:
        """Build the next graph from the first row on."""
        self._generation, self._read, self._rows = generation, 0, 0
        self._reader: EncodedItemsReader | None = None
        self._graph: hnswlib.Index | None = None
        self._copies = CopyCounter()

    def _run(self) -> None:
        if sys.platform == "linux":  # elsewhere a thread has no priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            self._grow()
        except Exception:  # of any kind: the workers compare all items meanwhile
            log.exception("%s: no graph could be built", self._folder)
            self._begin(self._generation)
            self._due = time.monotonic() + RETRY_SECONDS

    def _grow(self) -> None:
        if self._reader is None:
            self._reader = EncodedItemsReader(self._folder, self._origin)
        if self._reader.generation != self._generation:  # the next `check` begins with the new generation
            return
        content: list[bytes] = []
        while self._reader.has_more and not self._stop.is_set():
            items, _ = self._reader.read()
            self._read += len(items)
            vectors = [each.vector for each in items if each.kind is EncodedKind.ITEM]
            content += filter(self._copies.count_and_admit, vectors)
        if content:
            graph = self._added(np.frombuffer(b"".join(content), np.float32).reshape(len(content), -1))
            if self._rows >= MIN_GRAPH_ITEMS and not self._stop.is_set():
                self._write(graph)

    def _added(self, vectors: Vectors) -> hnswlib.Index:
        """The graph with more rows, float32 (R, D); its capacity is its size, as `read_hnswlib` expects."""
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
        path = graph_path(self._folder, self._generation)
        draft = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
        try:
            graph.save_index(str(draft))
            draft.rename(path)
        finally:
            draft.unlink(missing_ok=True)
