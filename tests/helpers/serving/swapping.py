"""A server whose bundles a test changes under load: what it serves, and clients that ask all the time."""

import itertools
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.serving.loopback import configured
from twinspire.protos import bundle
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.rollout.hot_swap import HotSwapper
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.server import RetrievalServer
from twinspire.serving.service_status import ServiceStatus
from twinspire.serving.shared_state import ENTRIES, NEXT, TARGET, SharedState

WORKER = "worker 0"


class Swapping:
    """A server on the first bundle, and shared state whose target it follows."""

    def __init__(self, bundles: tuple[Path, Path]) -> None:
        self.bundles = {str(n + 1): folder for n, folder in enumerate(bundles)}
        self.shared_state = SharedState((*ENTRIES, WORKER))
        self.metrics = SharedMetrics(1)
        self.status = ServiceStatus(self.shared_state, self.metrics)
        first = LoadedBundle.load(bundles[0], item_tower=True, model_version="1")
        self.first = weakref.ref(first.retriever.built)
        self.server = RetrievalServer(
            first,
            metrics=self.metrics,
            config=configured(bounds=WorkerLimits(queue=10_000)),
            status=self.status.state,
        )
        self.serial = 0
        self.loaded: list[str] = []
        self.aim("1")
        self.swapper = HotSwapper(
            self.shared_state, WORKER, TrafficSplit(first), 1, self.load, self.server.swap
        )

    def load(self, folder: Path, model_version: str) -> LoadedBundle:
        self.loaded.append(model_version)
        return LoadedBundle.load(folder, item_tower=True, model_version=model_version)

    def aim(self, champion: str, canary: str = "", share: float = 0.5) -> None:
        self.serial += 1
        other = {**self.one(canary), "share": share} if canary else None
        self.shared_state.write(
            TARGET, {"serial": self.serial, "champion": self.one(champion), "canary": other}
        )

    def announce(self, champion: str, who: str = WORKER) -> None:
        """Write the version that comes next, and which worker loads it first."""
        note = {"serial": self.serial + 1, "champion": self.one(champion), "canary": None, "who": [who]}
        self.shared_state.write(NEXT, note)

    def one(self, model_version: str) -> dict[str, str]:
        folder = self.bundles[model_version]
        version = bundle.read_manifest(folder).bundle_version if folder.is_dir() else "0" * 64
        return {"folder": str(folder), "bundle_version": version, "model_version": model_version}

    def note(self, **expected: Any) -> dict[str, Any]:
        """The worker's note, as soon as it says what is expected."""
        until = time.monotonic() + 20
        while any(self.shared_state.read(WORKER)[key] != value for key, value in expected.items()):
            assert time.monotonic() < until, self.shared_state.read(WORKER)
            time.sleep(0.01)
        return self.shared_state.read(WORKER)

    def swapped(self) -> None:
        assert self.note(serial=self.serial)["failed"] == 0


class Load:
    """Clients that ask one after the other until they are told to stop, and what they got."""

    def __init__(self, ask: Callable[[int], Any], clients: int) -> None:
        self.answers: list[Any] = []  # of `ask`, which takes the number of a question
        self.errors: list[Exception] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(ask, n)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, ask: Callable[[int], Any], start: int) -> None:
        for n in itertools.count(start * 37):
            if self._stopped.is_set():
                return
            try:
                self.answers.append(ask(n))
            except Exception as error:
                self.errors.append(error)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
