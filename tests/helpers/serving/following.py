"""What the tests of the follower share: a registry in memory, a clock that is wound on, workers that obey."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers import tampered
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged, MissingStage, Unavailable
from twinspire.serving.rollout.bundle_cache import BundleCache
from twinspire.serving.rollout.follower import FollowConfig, Follower
from twinspire.serving.rollout.registry import Registered, RegistryProcess
from twinspire.serving.rollout.target import Clock, Workers, bundle_at
from twinspire.serving.shared_state import SharedState

reseal = tampered.reseal
CHAMPION, CHALLENGER = "models:/tiny@champion", "models:/tiny@challenger"
NAMES = ("target", "next", "following", "worker 0", "worker 1", "shadow target", "shadow")


class Shelf(RegistryProcess):
    """A registry in memory, whose versions are bundles in folders."""

    def __init__(self, *folders: Path) -> None:
        super().__init__()
        self.folders = {str(n): folder for n, folder in enumerate(folders, 1)}
        self._versions: dict[Path, str] = {}  # of bundles; no test changes one that was read
        self.aliases: dict[str, str] = {CHAMPION: "1"}
        self.down = ""  # why it does not answer
        self.broken: Exception | None = None  # what every call raises
        self.asked = 0
        self.downloaded: list[str] = []  # versions
        self.tags = True
        self.during_download: Callable[[], object] = int

    def resolve(self, model: str) -> Registered:
        self.asked += 1
        self._answer()
        if model not in self.aliases:
            raise MissingStage(f"{model}: not in the registry")
        version = self.aliases[model]
        return Registered("tiny", version, self.version(version) if self.tags else "")

    def version(self, number: str) -> str:
        """Of the bundle in a version."""
        folder = self.folders[number]
        if folder not in self._versions:
            self._versions[folder] = bundle.read_manifest(folder).bundle_version
        return self._versions[folder]

    def download(self, registered: Registered, draft: Path) -> None:
        self._answer()
        self.downloaded.append(registered.version)
        self.during_download()
        shutil.copytree(self.folders[registered.version], draft / "bundle")

    def _answer(self) -> None:
        if self.broken:
            raise self.broken
        if self.down:
            raise Unavailable(self.down)


class Wound(Clock):
    """A clock whose pauses take no time: a pause advances it, and calls what a test does meanwhile."""

    def __init__(self) -> None:
        super().__init__(threading.Event())
        self.now, self.shown = 1000.0, 1.7e9
        self.meanwhile: list[Callable[[], None]] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.shown

    def pause(self, seconds: float) -> bool:
        self.now += seconds
        self.shown += seconds
        for act in self.meanwhile:
            act()
        return self.stop.is_set()


class Crew:
    """Workers that do as the shared state says, but for what a test makes of them."""

    def __init__(self, shared_state: SharedState, clock: Wound) -> None:
        self.shared_state = shared_state
        self.dead: set[int] = set()  # slots
        self.cannot: dict[str, str] = {}  # bundle version -> why
        self.serves: list[str] = [""] * 2
        clock.meanwhile.append(self.obey)
        self.obey()

    def alive(self, pid: int) -> bool:
        return pid - 100 not in self.dead

    def obey(self) -> None:
        target, coming = self.shared_state.read("target"), self.shared_state.read("next")
        for slot in {0, 1} - self.dead:
            name = f"worker {slot}"
            note = self.shared_state.read(name) or {"serial": 0, "ready": 0, "failed": 0, "error": ""}
            if coming.get("champion") and name in coming["who"]:
                if error := self._refuses(slot, coming):
                    note = {**note, "failed": coming["serial"], "error": error}
                else:
                    note = {**note, "ready": coming["serial"]}
            if error := self._refuses(slot, target):
                note = {**note, "failed": target["serial"], "error": error}
            else:
                note = {**note, "serial": target["serial"]}
                self.serves[slot] = target["champion"]["bundle_version"]
            self.shared_state.write(name, {**note, "pid": 100 + slot})

    def _refuses(self, slot: int, wanted: dict[str, Any]) -> str:
        versions = [each["bundle_version"] for each in (wanted["champion"], wanted["canary"]) if each]
        errors = [self.cannot[version] for version in versions if version in self.cannot]
        return errors[0] if errors and slot == 1 else ""


@dataclass
class Scene:
    """A follower among all that it deals with; version 1 of `shelf` is being served."""

    folder: Path
    shelf: Shelf
    follow: FollowConfig
    shared_state: SharedState = field(default_factory=lambda: SharedState(NAMES))
    clock: Wound = field(default_factory=Wound)
    bad: dict[str, str] = field(default_factory=dict)  # bundle version -> why its trial fails
    unforeseen: dict[str, Exception] = field(default_factory=dict)  # bundle version -> what its trial raises
    tried: list[tuple[str, int]] = field(default_factory=list)
    during_validation: Callable[[], object] = int

    def __post_init__(self) -> None:
        self.cache = BundleCache(self.folder, owns=True)
        first = self.cache.take(self.shelf.resolve(CHAMPION), self.shelf)
        version = bundle.read_manifest(first).bundle_version
        note = vars(bundle_at(first, version, "1"))
        self.shared_state.write("target", {"serial": 1, "champion": note, "canary": None})
        self.crew = Crew(self.shared_state, self.clock)
        self.follower = self.start()

    def start(self) -> Follower:
        """Another process of the follower."""

        def attempt(folder: Path, copies: int) -> float:
            version = bundle.read_manifest(folder).bundle_version
            self.tried.append((version, copies))
            self.during_validation()
            if version in self.unforeseen:
                raise self.unforeseen[version]
            if version in self.bad:
                raise BundleDamaged(self.bad[version])
            return 0.5

        workers = Workers(self.shared_state, self.clock, self.crew.alive)
        self.follower = Follower(
            self.follow, self.shared_state, self.cache, self.shelf, attempt, self.clock, workers
        )
        self.follower.begin()
        return self.follower

    def step(self) -> float:
        """One look, and the time until the next; gives how long that is."""
        delay = self.follower.step()
        self.clock.pause(delay)
        return delay

    def promote(self, version: str, alias: str = CHAMPION) -> None:
        """Let an alias name a version, and look."""
        self.shelf.aliases[alias] = version
        self.step()

    def version(self, number: str) -> str:
        """Of the bundle in a version on the shelf."""
        return self.shelf.version(number)

    @property
    def target(self) -> dict[str, Any]:
        return self.shared_state.read("target")

    @property
    def note(self) -> dict[str, Any]:
        return self.shared_state.read("following")

    @property
    def champion(self) -> str:
        return str(self.target["champion"]["model_version"])

    @property
    def pointed(self) -> str:
        """The version that the cache remembers as served; empty if there is none."""
        pointer = self.cache.pointer(CHAMPION)
        return pointer.model_version if pointer else ""


def newer_schema(folder: Path, parent: Path) -> Path:
    """A copy of a bundle that says it is of a schema from the future."""
    copy = parent / "newer"
    shutil.copytree(folder, copy)
    path = copy / bundle.MANIFEST
    table = json.loads(path.read_text())
    path.write_text(json.dumps({**table, "schema_version": bundle.SCHEMA_VERSION + 1}))
    return copy
