"""A service that follows an alias, into which tests inject faults, and what must hold of each."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers import tables
from tests.helpers.serving.faulty import ALIAS, NAME, Asker, RegistryServer, Service, Versions
from tests.helpers.serving.following import reseal
from tests.helpers.tiny import tiny_bundle
from tests.helpers.waiting import wait_until
from twinspire.protos import bundle
from twinspire.serving.client import RetrievalClient

Heal = Callable[[], None]


class World:
    """The registry, the service, and two good bundles in turn.

    Args:
        folder: for all files.
        empty_store: an MLflow database in which nothing is tracked yet, to copy.
    """

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self.made = folder / "made"
        self.registry = RegistryServer(folder, empty_store)
        self.registry.start()
        self.versions = Versions(self.registry.uri, self.registry.artefacts)
        self.bundles = {}
        for items in (300, 200):
            made = tiny_bundle(self.made, items)
            self.bundles[self.versions.add_bundle(made)] = made
        self.versions.point("1")
        cache = folder / "cache"
        cache.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(cache)]
        self.disk = cache if subprocess.run(mount, capture_output=True).returncode == 0 else None
        self.service = Service(self.registry.uri, folder)
        self.asker = Asker(self.service.told["address"])
        self.asker.start()

    def close(self) -> None:
        self.asker.stop()
        self.service.stop()
        self.versions.close()
        self.registry.close()
        if self.disk:
            subprocess.run(["umount", str(self.disk)], check=True)

    @property
    def other(self) -> str:
        """The good version that is not being served; the cache does not hold it."""
        other = "2" if self.service.served() == "1" else "1"
        shutil.rmtree(self.service.cache / self.bundles[other].name, ignore_errors=True)
        return other

    def bad(self, **fields: Any) -> str:
        """A new version: the first bundle with other fields in its manifest."""
        return self.versions.add_bundle(reseal(self.bundles["1"], self.made, lambda folder: None, **fields))


def check(world: World, name: str, inject: Callable[[World], Heal], expected: str) -> None:
    """One fault from its beginning to its end."""
    service, asker = world.service, world.asker
    champion, began = service.served(), len(service.log())
    workers, refused = {each["pid"] for each in alive(service)}, service.following()["refused"]
    version = bundle.read_manifest(world.bundles[champion]).bundle_version
    failed, answered = len(asker.errors), len(asker.answers)
    heal = inject(world)
    try:
        error = wait_until(
            lambda: shown(service, expected), 60, lambda: (service.following(), service.log(began))
        )
        following = service.following()
        assert following["failures"] >= 1
        assert service.metric("twinspire_follow_failures") >= 1
        assert service.metric("twinspire_follow_refused_total") == following["refused"] >= refused
        wait_until(lambda: expected in service.log(began), 10, lambda: service.log(began))
        wait_until(lambda: len(asker.answers) > answered + 20)
        assert asker.errors[failed:] == []
        assert {each for each, _ in asker.answers[answered:]} == {version}
    finally:  # or the faults to come would find this one
        begun = time.monotonic()
        heal()
    target = world.versions.client.get_model_version_by_alias(NAME, ALIAS).version
    wait_until(
        lambda: service.served() == target and not service.following()["last_error"],
        60,
        lambda: (target, service.state(), service.log(began)),
    )
    seconds = time.monotonic() - begun
    coming = bundle.read_manifest(world.bundles[target]).bundle_version
    wait_until(lambda: asker.answers[-1][0] == coming)  # workers change a tenth of a second after it is told
    tables.add("faults while serving", f"{name:42} recovered in {seconds:4.1f} s   {error[:100]}")
    assert service.metric("twinspire_follow_failures") == 0
    assert asker.errors[failed:] == []
    assert {each["pid"] for each in alive(service)} == workers
    ids = dict(asker.answers)
    assert {(version, ids[version]) for version, _ in asker.answers} == set(asker.answers)


def shown(service: Service, expected: str) -> str:
    error = str(service.following()["last_error"])
    return error if expected in error else ""


def alive(service: Service) -> list[dict[str, Any]]:
    """What each of the workers says of itself."""
    found: dict[int, dict[str, Any]] = {}
    for _ in range(200):
        with RetrievalClient(service.told["address"]) as client:
            pid = client.info().state["worker_pid"]
        found[pid] = {"pid": pid}
        if len(found) == 2:
            break
    return list(found.values())


def put_back(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)
