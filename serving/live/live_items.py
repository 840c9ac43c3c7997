"""A bundle with its live items, as one process searches it: opened, kept up to date, opened again.

live = LiveItems.open(retriever, place)
live.retriever.search([Query("read a CSV file")], k=10)
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinspire.protos.errors import BundleDamaged, BundleError, Unavailable
from twinspire.serving.live.encoded_items import (
    EncodedItemsReader,
    EncodedOrigin,
    folder_of,
    graph_path,
    origin_of,
)
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.growing import GrowingSegment
from twinspire.serving.segments.growing_graph import open_graph
from twinspire.serving.segments.packed_items import EncodedItemsDamaged

log = logging.getLogger(__name__)

NO_WRITES = "--catalogue takes no writes for an index of kind"
POLL_SECONDS = 0.02  # between two checks for encoded items
STALL_SECONDS = 60.0  # without progress of the process that encodes, after which a bundle cannot be opened


@dataclass(frozen=True)
class LivePlace:
    """Where the processes of a host find the live items.

    Args:
        folder: of all live items.
        store: gives the entry `CATALOGUE` of the shared state.
    """

    folder: Path
    store: Callable[[], Mapping[str, Any]]


class LiveItems:
    """One bundle with its live items, as one process searches it.

    All methods but `follow_graph`, `is_superseded` and `reopened` are for the thread that searches.

    Args:
        retriever: of the bundle alone.
        place: of the live items.
        origin: of the encoded items.

    Attributes:
        retriever: with the live items.
        segment: the live items.

    Raises:
        EncodedItemsDamaged: the encoded items are damaged, or belong to something else.
        OSError: there are none yet, or they cannot be read now.
    """

    def __init__(self, retriever: Retriever, place: LivePlace, origin: EncodedOrigin) -> None:
        self._base, self._place, self._origin = retriever, place, origin
        self._folder = folder_of(place.folder, origin)
        self._reader = EncodedItemsReader(self._folder, origin)
        self._graph_file: tuple[int, ...] = ()  # that was last opened
        self._is_damaged, self._error = False, ""
        self.segment = GrowingSegment(retriever.built.undeleted(), origin.start)
        self.retriever = retriever.with_live_items(self.segment)

    @classmethod
    def open(cls, retriever: Retriever, place: LivePlace, stop: threading.Event | None = None) -> "LiveItems":
        """Wait until all that the store holds now has been encoded for a bundle, and apply it.

        Args:
            retriever: of the bundle alone.
            place: of the live items.
            stop: ends the wait.

        Raises:
            BundleError: another server has the items of the bundle.
            Unavailable: the process that encodes makes no progress, or the wait was ended.
            OSError, EncodedItemsDamaged: another generation cannot be opened.
        """
        if retriever.manifest.is_remote:
            version, kind = retriever.manifest.bundle_version[:12], retriever.manifest.index.kind
            raise BundleError(f"bundle {version}: {NO_WRITES} {kind}")
        stop = stop or threading.Event()
        store = place.store()
        live: LiveItems | None = None
        last_id, progress_at = -1, time.monotonic()
        while True:
            live = live or cls._opened(retriever, place, store["store_id"])
            if live is not None:
                live = live.updated()
                if live.segment.sequence >= store["sequence"]:
                    return live
                if live._reader.last_id != last_id:
                    last_id, progress_at = live._reader.last_id, time.monotonic()
            if stop.wait(POLL_SECONDS):
                raise Unavailable("the service stops")
            if time.monotonic() - progress_at > STALL_SECONDS:
                version = retriever.manifest.bundle_version[:12]
                raise Unavailable(
                    f"bundle {version}: its live items were not encoded in time; none was for "
                    f"{STALL_SECONDS:g} s, and the log of the catalogue's process says why"
                )

    @classmethod
    def _opened(cls, retriever: Retriever, place: LivePlace, store_id: str) -> "LiveItems | None":
        """The live items of a bundle without applied changes; None if none can be read yet."""
        try:
            return cls(retriever, place, origin_of(retriever.manifest, store_id))
        except (OSError, EncodedItemsDamaged):  # the process that encodes begins a file
            return None

    def advance(self) -> bool:
        """Apply the next changes, some hundred at most; returns whether there are more.

        After one that cannot be applied no others are: the result would be a state that the store never had.
        The file is removed, and the process that encodes begins another one.
        """
        try:
            if self._is_damaged or not self._reader.has_more:
                return False
            items, sequence = self._reader.read()
            self.segment.apply(items)
        except OSError as error:  # such as a lock of SQLite's; the next call tries again
            if str(error) != self._error:
                log.error("%s", error)
            self._error = str(error)
            return False
        except Exception as error:  # of any kind: the worker answers from what it has
            self._is_damaged = True
            log.error("%s", error, exc_info=None if isinstance(error, EncodedItemsDamaged) else error)
            self._reader.remove()
            return False
        if sequence is not None:
            self.segment.sequence = sequence
        return bool(items) and self._reader.has_more

    def catch_up(self) -> None:
        """Apply all changes that have been encoded."""
        while self.advance():
            pass

    def follow_graph(self) -> None:
        """Open the graph over the segment's first rows if its file is new or has changed; from any thread."""
        path = graph_path(self._folder, self._reader.generation)
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        file = found.st_ino, found.st_mtime_ns, found.st_size  # a number may be that of a removed file
        if file == self._graph_file:
            return
        try:
            graph = open_graph(path, self.retriever.manifest, self.segment.row_vectors)
        except BundleDamaged as error:  # all items are compared until the next graph is written
            log.error("%s", error)
            self._graph_file = file
        else:
            if graph is not None:
                self.segment.graph, self._graph_file = graph, file

    @property
    def is_superseded(self) -> bool:
        """Whether there is another generation of encoded items."""
        return self._reader.is_superseded

    def reopened(self) -> "LiveItems":
        """The same bundle with the current generation, all of it applied; errors as the class."""
        return LiveItems(self._base, self._place, self._origin).updated()

    def updated(self) -> "LiveItems":
        """The same bundle with all that is encoded; for a process with one thread; errors as the class."""
        live = self.reopened() if self.is_superseded else self
        live.catch_up()
        live.follow_graph()
        return live
