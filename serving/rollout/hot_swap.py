"""A worker's part in a swap: it loads the next bundle beside the current one, and then changes over.

The worker stays, and so do its connections. A new generation of workers that took over the port would lose
calls: gRPC's C core cancels those that arrive between its shutdown and the moment when the client has read
GOAWAY. Instead, the new bundle is loaded and warmed up on a thread of its own, as soon as the entry `NEXT` in
shared memory names the bundle and this worker. When all workers have it, the entry `TARGET` names it too.
Then one reference is changed, on the event loop's thread and between two batches. Requests that began with
the old bundle keep it alive until they are done. All workers change within a tenth of a second; if one
cannot, the follower announces the old bundles again, and the others change back.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from twinspire.serving import heap
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.shared_state import NEXT, TARGET, SharedState

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
SWAP_TIMEOUT_SECONDS = 30.0  # for the event loop to change the reference
SWITCH_SECONDS = 0.0005  # that loading may delay a thread that answers; a tenth of Python's default

MAX_ERROR_LENGTH = 2000  # characters of an error in the worker's entry

Load = Callable[[Path, str], LoadedBundle]  # folder, version in the registry


def load_split(target: Mapping[str, Any], load: Load, current: TrafficSplit | None = None) -> TrafficSplit:
    """The bundles of a target, loaded.

    Args:
        target: an entry that holds a `Target`.
        load: loads a bundle.
        current: bundles that are loaded already; a bundle that the target names is not loaded again.

    Raises:
        BundleError: a bundle cannot be used.
    """
    loaded = {each.version: each for each in (current.all if current else ())}

    def find_or_load(wanted: Mapping[str, Any]) -> LoadedBundle:
        version = wanted["bundle_version"]
        return loaded.get(version) or load(Path(wanted["folder"]), wanted["model_version"])

    canary = target.get("canary")
    champion = find_or_load(target["champion"])
    if canary:
        return TrafficSplit(champion, find_or_load(canary), canary["share"])
    return TrafficSplit(champion)


class HotSwapper:
    """Watches the shared state, on a thread of its own, and swaps a worker's bundles.

    Args:
        name: of the worker's own entry.
        split: the bundles that are served.
        serial: of the target that they come from.
        load: loads a bundle.
        swap: makes the server answer from other bundles, and calls back when it does.
    """

    def __init__(
        self,
        shared_state: SharedState,
        name: str,
        split: TrafficSplit,
        serial: int,
        load: Load,
        swap: Callable[[TrafficSplit, Callable[[], None]], None],
    ) -> None:
        self._shared_state, self._name = shared_state, name
        self._split, self._serial = split, serial
        self._load, self._swap = load, swap
        self._ready: tuple[int, TrafficSplit] | None = None  # the next bundles, with their target's serial
        self._failed, self._error = 0, ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swapper", daemon=True)
        self._publish()

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Start no further swap, and drop a bundle that is being loaded."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self._change(self._shared_state.read(TARGET))
            self._prepare(self._shared_state.read(NEXT))
            try:
                self._follow_live_items()
            except Exception as error:  # of any kind: the worker goes on with what it has
                log.error("worker %d: its live items cannot be opened again: %s", os.getpid(), error)

    def _prepare(self, announced: Mapping[str, Any]) -> None:
        """Load the announced bundles if this worker is named; drop the loaded ones if none are announced."""
        serial = announced.get("serial", 0)
        if not announced.get("champion"):
            if self._ready is not None:
                self._ready = None
                self._publish()
                heap.trim()
        elif self._name in announced["who"] and serial > max(self._serial, self._failed, self._ready_serial):
            self._ready = None
            self._load_next(announced)

    def _load_next(self, target: Mapping[str, Any]) -> None:
        try:
            with _short_switch_interval():
                self._ready = target["serial"], load_split(target, self._load, self._split)
        except Exception as error:  # of any kind: the worker goes on with its bundles
            self._fail(target["serial"], str(error))
        else:
            self._publish()

    def _fail(self, serial: int, reason: str) -> None:
        log.error("worker %d: stays with its bundle: %s", os.getpid(), reason)
        self._ready, self._failed, self._error = None, serial, reason
        self._publish()

    def _change(self, target: Mapping[str, Any]) -> None:
        """Serve the target; it is loaded already, except by a worker that has just been started."""
        serial = target["serial"]
        if serial in (self._serial, self._failed):
            return
        if self._ready_serial != serial:
            self._load_next(target)
        if self._ready is None:
            return
        split = self._ready[1]
        if not self._answer_from(split):
            if not self._stopped.is_set():
                self._fail(serial, "the worker could not change over: its live items are behind, or it hangs")
            return
        self._split, self._serial, self._ready = split, serial, None
        self._failed, self._error = 0, ""
        self._publish()
        del split
        heap.trim()

    def _answer_from(self, split: TrafficSplit) -> bool:
        """Make the server answer from a split, as soon as its bundles have the live items of those before.

        Returns:
            Whether the server answers from it; False if the worker stops, or after `SWAP_TIMEOUT_SECONDS`.
        """
        swapped, until = threading.Event(), time.monotonic() + SWAP_TIMEOUT_SECONDS
        while not self._stopped.is_set() and time.monotonic() < until:
            self._swap(split, swapped.set)
            if swapped.wait(POLL_SECONDS):
                return not self._stopped.is_set()
        return False

    def _follow_live_items(self) -> None:
        """Open the bundles' live items again if there is another generation, and update the next bundles.

        The live items of the bundles that are served are updated on the event loop's thread.
        """
        if any(each.live is not None and each.live.is_superseded for each in self._split.all):
            with _short_switch_interval():
                split = _with_each(self._split, _reopened)
            if self._answer_from(split):
                self._split = split
        for each in self._split.all:
            if each.live is not None:
                each.live.follow_graph()
        if self._ready is not None and self._split.champion.live is not None:
            served = {each.version: each for each in self._split.all}
            split = _with_each(self._ready[1], lambda each: served.get(each.version) or _updated(each))
            self._ready = self._ready[0], split

    @property
    def _ready_serial(self) -> int:
        """The serial of the bundles that are ready; 0 if there are none."""
        return self._ready[0] if self._ready else 0

    def _publish(self) -> None:
        entry = {
            "serial": self._serial,
            "ready": self._ready_serial,
            "failed": self._failed,
            "error": self._error[:MAX_ERROR_LENGTH],
            "pid": os.getpid(),
        }
        self._shared_state.write(self._name, entry)


def _with_each(split: TrafficSplit, change: Callable[[LoadedBundle], LoadedBundle]) -> TrafficSplit:
    """The split whose bundles are what `change` returns for the bundles of this one."""
    return replace(split, champion=change(split.champion), canary=split.canary and change(split.canary))


def _reopened(bundle: LoadedBundle) -> LoadedBundle:
    """A bundle with the current generation of its encoded items, if that is another one."""
    return bundle.reopened() if bundle.live is not None and bundle.live.is_superseded else bundle


def _updated(bundle: LoadedBundle) -> LoadedBundle:
    """A bundle that does not answer yet, with all of its live items."""
    bundle = _reopened(bundle)
    if bundle.live is not None:
        bundle.live.catch_up()
    return bundle


@contextmanager
def _short_switch_interval() -> Iterator[None]:
    """Within the block Python's threads alternate quickly, so that another thread can answer requests."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
