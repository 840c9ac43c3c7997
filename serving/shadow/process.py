"""The shadow's process: it loads its target, repeats searches of the service, and compares the answers.

The entry `SHADOW_TARGET` in shared memory names the challenger's bundle, and `TARGET` the champion's. Answers
of any other bundle, such as one that is being swapped out, are not compared. The sums belong to one pair of
bundles, and begin anew in a restarted shadow.
"""

import gc
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import BundleDamaged, TwinspireError
from twinspire.serving.live.live_items import LiveItems, LivePlace
from twinspire.serving.retrieval.response_bytes import BASES
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.shadow.mirror import Mirrored, received
from twinspire.serving.shadow.report import PairSums
from twinspire.serving.shared_state import SHADOW, SHADOW_TARGET, TARGET, SharedState
from twinspire.serving.supervisor import WorkerHandle, run_when_idle
from twinspire.serving.wire import converters
from twinspire.serving.wire.converters import RequestLimits
from twinspire.serving.wire.filter_converters import search_options

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # between two reads of the shared state
BATCH = 32  # searches of each worker between two reads of the shared state
MAX_ERROR_LENGTH = 500  # characters of an error in the entry
NO_CHALLENGER = "the alias names no other bundle than the champion's"


class Shadow:
    """Answers searches from a challenger's bundle; `run` is its process.

    Args:
        queues: that searches come from.
        shared_state: with the entries `SHADOW`, `SHADOW_TARGET` and `TARGET`.
        model: the alias, such as `models:/pydocs@challenger`; shown in the entry.
        limits: of the service that the searches were sent to.
        place: of the live items, if there are any.
    """

    def __init__(
        self,
        queues: SharedQueues,
        shared_state: SharedState,
        model: str,
        limits: RequestLimits,
        place: LivePlace | None = None,
    ) -> None:
        self._queues, self._shared_state, self._model, self._limits = queues, shared_state, model, limits
        self._place = place
        self._wanted: dict[str, Any] | None = None  # the target, as it was last read
        self._retriever: Retriever | None = None
        self._live: LiveItems | None = None  # of the challenger
        self._live_error = ""  # of the last attempt to update them
        self._error = ""
        self._sums = PairSums()
        self._failures: set[str] = set()  # kinds of unforeseen errors that have been logged
        self._stopped = threading.Event()

    def run(self, handle: WorkerHandle) -> None:
        """Work until the service stops, at the lowest priority."""
        handle.ready()
        run_when_idle()
        self._stopped = handle.stop_event()
        while not self._stopped.is_set():
            self.step()

    def step(self, seconds: float = POLL_SECONDS) -> None:
        """Read the shared state, then compare queued searches; wait up to `seconds` if there are none."""
        wanted = self._shared_state.read(SHADOW_TARGET)
        if wanted != self._wanted:
            self._wanted = wanted
            self._take(wanted)
            self._publish()
        self._follow_live()
        champion = self._shared_state.read(TARGET).get("champion", {}).get("bundle_version", "")
        if self._queues.wait(seconds):
            for mirrored in received(self._queues, BATCH):
                self._compare(champion, mirrored)
            self._publish()

    def _take(self, wanted: Mapping[str, Any]) -> None:
        """Load another challenger; if that fails there is none, until the target changes."""
        version = wanted.get("bundle_version", "")
        if self._retriever is None or self._retriever.manifest.bundle_version != version:
            self._retriever, self._live, self._error = None, None, NO_CHALLENGER
            gc.collect()  # memory may not hold two bundles at once
            if wanted:
                self._load(wanted)
        if version != self._sums.bundle_version:
            while self._queues.take(BATCH):
                pass  # sent for the challenger before, or while this one was loaded
            self._sums = PairSums(version, dropped_before=self._queues.dropped)

    def _load(self, wanted: Mapping[str, Any]) -> None:
        """Load the challenger's bundle, or set the error that the entry shows."""
        folder = Path(wanted["folder"])
        try:
            retriever = Retriever.load(folder)
            found, expected = retriever.manifest.bundle_version, wanted["bundle_version"]
            if found != expected:
                raise BundleDamaged(f"{folder}: is bundle {found[:12]}, expected {expected[:12]}")
            if self._place is not None:
                self._live = LiveItems.open(retriever, self._place, self._stopped)
                retriever = self._live.retriever
        except TwinspireError as error:
            # Clients that may call `Info` must not learn the bundle's path.
            self._error = str(error).replace(f"{folder.parent}{os.sep}", "")[:MAX_ERROR_LENGTH]
            log.error("the shadow cannot load its bundle: %s", error)
        except Exception as error:
            self._error = f"cannot be loaded ({type(error).__name__}); the log says why"
            log.exception("%s: the shadow cannot load its bundle", folder)
        else:
            self._retriever, self._error = retriever, ""
            log.info("the shadow is bundle %s", found[:12])

    def _follow_live(self) -> None:
        """Apply the changes of live items that have been encoded since the last call.

        If another generation cannot be opened, the shadow goes on with what it has, as a worker does,
        and the next call tries again.
        """
        if self._live is None:
            return
        try:
            self._live = self._live.updated()
        except Exception as error:
            if str(error) != self._live_error:  # steps may follow each other quickly
                log.error("the shadow's live items cannot be opened again: %s", error)
            self._live_error = str(error)
        else:
            self._retriever, self._live_error = self._live.retriever, ""

    def _compare(self, champion: str, mirrored: Mirrored) -> None:
        """Answer one search, and compare; count an error if the challenger cannot answer it."""
        request, response = mirrored
        answer = wire.SearchResponse.FromString(response)
        # A challenger that has just become the champion would agree with itself.
        if (
            self._retriever is None
            or answer.bundle_version != champion
            or champion == self._sums.bundle_version
        ):
            return
        if self._sums.champion not in ("", champion):
            self._sums = PairSums(self._sums.bundle_version, dropped_before=self._queues.dropped)
        self._sums.champion = champion
        try:
            self._sums.add(answer, self._answer(self._retriever, wire.SearchRequest.FromString(request)))
        except Exception as error:
            self._sums.fail()
            kind = type(error).__name__
            if not isinstance(error, TwinspireError) and kind not in self._failures:  # the first of its kind
                self._failures.add(kind)
                log.error("the shadow could not answer a query", exc_info=error)

    def _answer(self, retriever: Retriever, request: wire.SearchRequest) -> wire.SearchResponse:
        """Answer as the service does."""
        prepared = retriever.prepare(converters.query_from_wire(request.query, "query"))
        options = search_options(request, retriever, self._limits)
        encoded = retriever.encode_prepared([prepared])
        (found,) = retriever.find(encoded, [options])
        ids = map(retriever.items.item_id, found.rows)
        hits = [wire.Hit(id=each, score=score) for each, score in zip(ids, found.scores, strict=True)]
        basis, fusion = BASES[found.context.basis], converters.fusion_to_wire(found.fusion)
        return wire.SearchResponse(hits=hits, basis=basis, fusion=fusion)

    def _publish(self) -> None:
        entry = {
            **asdict(self._sums),
            "model": self._model,
            "model_version": (self._wanted or {}).get("model_version", ""),
            "last_error": self._error,
            "pid": os.getpid(),
        }
        self._shared_state.write(SHADOW, entry)
