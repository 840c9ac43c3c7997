"""A real MLflow registry on SQLite with tiny bundles, and a service on it that has no transport."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.protos.bundle import write_file
from twinspire.serving import bundles
from twinspire.serving.rollout.follower import FollowConfig, follower
from twinspire.serving.rollout.hot_swap import HotSwapper, load_split
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.rollout.target import bundle_at
from twinspire.serving.shared_state import SharedState, worker_name
from twinspire.serving.supervisor import ProcessSpec, Supervisor, WorkerHandle

NAME = "tiny"
WORKERS = 2


class Library:
    """The registry.

    Args:
        folder: for its database and its artefacts.
        empty_store: an MLflow database in which nothing is tracked yet, to copy.
    """

    def __init__(self, folder: Path, empty_store: Path) -> None:
        with warnings.catch_warnings(record=True):
            from mlflow import MlflowClient

            self.folder = folder
            self.database = Path(shutil.copy(empty_store, folder / "mlflow.db"))
            self.uri = f"sqlite:///{self.database}"
            self.client: Any = MlflowClient(self.uri, self.uri)
            self.client.create_registered_model(NAME)

    def add(self, source: Path) -> str:
        """A copy of a bundle as a new version."""
        number = len(list(self.folder.glob("artefacts-*"))) + 1
        kept = self.folder / f"artefacts-{number}"
        shutil.copytree(source, kept / "bundle")
        tags = {"bundle_version": json.loads((source / bundle.MANIFEST).read_text())["bundle_version"]}
        return str(self.client.create_model_version(NAME, kept.as_uri(), tags=tags).version)

    def file(self, version: str, name: str) -> Path:
        """A file of the bundle in a version."""
        return self.folder / f"artefacts-{version}" / "bundle" / name

    def point(self, version: str, alias: str = "champion") -> None:
        self.client.set_registered_model_alias(NAME, alias, version)


@contextmanager
def library_of(folder: Path, empty_store: Path, folders: Sequence[Path]) -> Iterator[Library]:
    """A registry of some bundles, of which the first is champion; this process and its children use it."""
    made = Library(folder, empty_store)
    for each in folders:
        made.add(each)
    made.point("1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", made.uri)
        yield made


class Service:
    """`python -m tests.helpers.serving.library`, and what it says of itself."""

    def __init__(self, process: "subprocess.Popen[str]", state: Path) -> None:
        self.process = process
        self._state = state

    def read(self) -> Any:
        """Its notes by name, and the process of its follower."""
        return json.loads(self._state.read_text())

    def champion(self, version: str) -> Any:
        """Its notes, as soon as a version is served by everybody and nothing is wrong."""

        def holds(notes: Any) -> bool:
            following, serial = notes["following"], notes["target"]["serial"]
            return bool(
                notes["target"]["champion"]["model_version"] == version
                and following.get("last_check")
                and not following["last_error"]
                and not following["candidate"]
                and all(notes[worker_name(slot)]["serial"] == serial for slot in range(WORKERS))
            )

        return self.until(holds)

    def fails(self, text: str) -> Any:
        """Its notes, as soon as they tell of an error."""
        return self.until(lambda notes: text in notes["following"].get("last_error", ""))

    def until(self, holds: Callable[[Any], bool], seconds: float = 120.0) -> Any:
        """Its notes, as soon as something holds of them."""
        limit, notes = time.monotonic() + seconds, None
        while time.monotonic() < limit:
            assert self.process.poll() is None, self.process.communicate()
            if self._state.exists() and holds(notes := self.read()):
                return notes
            time.sleep(0.05)
        raise AssertionError(notes)


@contextmanager
def service(folder: Path, **follow: Any) -> Iterator[Service]:
    """A service that follows an alias; its log is `folder/log`."""
    state = folder / "state.json"
    state.unlink(missing_ok=True)
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.serving.library", json.dumps(follow), str(state)],
            stdout=log,
            stderr=log,
            text=True,
            cwd=ROOT,
        )
    try:
        yield Service(process, state)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        for each in [*psutil.Process(process.pid).children(True)] if process.poll() is None else []:
            each.kill()
        process.kill()
        process.communicate()


def main() -> None:
    """Serve, as `serving/service.py` does, but for the requests."""
    arguments, state = json.loads(sys.argv[1]), Path(sys.argv[2])
    follow = FollowConfig(**{**arguments, "cache": Path(arguments["cache"])})
    folder, version = bundles.first(follow.model, follow.cache)
    shared_state = SharedState(
        (
            "target",
            "next",
            "following",
            *map(worker_name, range(WORKERS)),
            "shadow target",
            "shadow",
        )
    )
    first = vars(bundle_at(folder, bundle.read_manifest(folder).bundle_version, version))
    shared_state.write("target", {"serial": 1, "champion": first, "canary": None})
    roles = [ProcessSpec(worker_name(slot), _worker(shared_state, slot)) for slot in range(WORKERS)]
    roles.append(ProcessSpec("follower", follower(follow, shared_state)))

    supervisor = os.getpid()

    def report() -> None:
        while os.getppid() == supervisor:
            notes = {name: shared_state.read(name) for name in shared_state.names}
            known = {os.getpid(), *(notes[worker_name(slot)].get("pid") for slot in range(WORKERS))}
            children = {child.pid for child in psutil.Process(supervisor).children()}
            write_file(state, json.dumps({**notes, "followers": sorted(children - known)}).encode())
            time.sleep(0.05)

    def reporter(handle: WorkerHandle) -> None:
        threading.Thread(target=report, daemon=True).start()
        handle.ready()
        handle.wait()

    Supervisor([*roles, ProcessSpec("reporter", reporter)], 1.0).run(lambda: None)


def _worker(shared_state: SharedState, slot: int) -> Callable[[WorkerHandle], None]:
    def load(folder: Path, model_version: str) -> LoadedBundle:
        return LoadedBundle.load(folder, model_version=model_version)

    def swap(lineup: TrafficSplit, swapped: Callable[[], None]) -> None:
        swapped()

    def run(handle: WorkerHandle) -> None:
        target = shared_state.read("target")
        lineup = load_split(target, load)
        swapper = HotSwapper(shared_state, worker_name(slot), lineup, target["serial"], load, swap)
        swapper.start()
        handle.ready()
        handle.wait()
        swapper.stop()

    return run


if __name__ == "__main__":
    main()
