"""Whatever goes wrong with the registry, the cache or a new bundle: the champion answers, and it can be seen.

Each fault is injected while the service is asked all the time. Then no request may fail, all answers must be
the champion's, and `Info`, metrics and log must tell of it. When the fault goes, the service must come to
serve what the alias names, without a restart.
"""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from protos import bundle
from protos.bundle import INDEX, ITEM_TOWER, ITEMS, MANIFEST, QUERY_TOWER, VECTORS
from serving.client import RetrievalClient
from tests import tables
from tests.serving.conftest import ROOT
from tests.serving.faulty import ALIAS, NAME, Asker, RegistryServer, Service, Versions, wait_for
from tests.serving.following import reseal
from tests.tiny import build_index, tiny_bundle
from tests.tiny_towers import DIMENSION

pytestmark = pytest.mark.filterwarnings("ignore")

FILES = (QUERY_TOWER, ITEM_TOWER, VECTORS, INDEX, ITEMS, MANIFEST)
MEMORY = 200  # MiB that a new bundle may take

Heal = Callable[[], None]


class World:
    """The registry, the service, and two good bundles in turn."""

    def __init__(self, folder: Path) -> None:
        self.made = folder / "made"
        self.registry = RegistryServer(folder)
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
        self.service = Service(self.registry.uri, folder, "--memory", str(MEMORY))
        self.asker = Asker(self.service.told["address"])
        self.asker.start()

    def close(self) -> None:
        self.asker.stop()
        self.service.stop()
        self.versions.close()
        self.registry.stop()
        if self.disk:
            subprocess.run(["umount", str(self.disk)], check=True)

    @property
    def other(self) -> str:
        """The good version that is not being served; the cache does not hold it."""
        other = "2" if self.service.served() == "1" else "1"
        shutil.rmtree(self.service.cache / self.bundles[other].name, ignore_errors=True)
        return other

    def bad(self, change: Callable[[Path], None], **fields: Any) -> str:
        """A new version: the first bundle with a change that its manifest knows of."""
        return self.versions.add_bundle(reseal(self.bundles["1"], self.made, change, **fields))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("faults"))
    try:
        yield made
    finally:
        made.close()


def check(world: World, name: str, inject: Callable[[World], Heal], expected: str) -> None:
    """One fault from its beginning to its end."""
    service, asker = world.service, world.asker
    champion, began = service.served(), len(service.log())
    workers, refused = {each["pid"] for each in alive(service)}, service.following()["refused"]
    version = bundle.read_manifest(world.bundles[champion]).bundle_version
    failed, answered = len(asker.errors), len(asker.answers)
    heal = inject(world)
    try:
        error = wait_for(
            lambda: shown(service, expected), 60, lambda: (service.following(), service.log(began))
        )
        following = service.following()
        assert following["failures"] >= 1
        assert service.metric("twinspire_follow_failures") >= 1
        assert service.metric("twinspire_follow_refused_total") == following["refused"] >= refused
        wait_for(lambda: expected in service.log(began), 10, lambda: service.log(began))
        wait_for(lambda: len(asker.answers) > answered + 20)
        assert asker.errors[failed:] == []
        assert {each for each, _ in asker.answers[answered:]} == {version}
    finally:  # or the faults to come would find this one
        begun = time.monotonic()
        heal()
    target = world.versions.client.get_model_version_by_alias(NAME, ALIAS).version
    wait_for(
        lambda: service.served() == target and not service.following()["last_error"],
        60,
        lambda: (target, service.state(), service.log(began)),
    )
    seconds = time.monotonic() - begun
    coming = bundle.read_manifest(world.bundles[target]).bundle_version
    wait_for(lambda: asker.answers[-1][0] == coming)  # workers change a tenth of a second after it is told
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


# Faults of files in the registry: the other good version is the one to come, and one of its files is damaged.


def damaged(name: str, damage: Callable[[Path], None]) -> Callable[[World], Heal]:
    def inject(world: World) -> Heal:
        coming = world.other
        path = world.versions.files(coming) / name
        whole = path.read_bytes()
        damage(path)
        world.versions.point(coming)
        return lambda: put_back(path, whole)

    return inject


def put_back(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def put_aside(path: Path, where: Path) -> None:
    path.rename(where)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file(world: World, name: str) -> None:
    expected = f"{name}: " if name != MANIFEST else "manifest.json: not a bundle's manifest"
    check(world, f"{name} truncated", damaged(name, truncate), expected)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit(world: World, name: str) -> None:
    check(
        world, f"a bit of {name} flipped", damaged(name, flip), "manifest.json" if name == MANIFEST else name
    )


def test_a_missing_file(world: World) -> None:
    check(world, f"{INDEX} missing", damaged(INDEX, Path.unlink), f"{INDEX}: missing")


# Faults of bundles: a version that is whole, and no good.


def bad(change: Callable[[Path], None], **fields: Any) -> Callable[[World], Heal]:
    def inject(world: World) -> Heal:
        world.versions.point(world.bad(change, **fields))
        coming = world.other
        return lambda: world.versions.point(coming)

    return inject


def narrower(folder: Path) -> None:
    """Vectors and an index of another dimension than the towers have."""
    vectors = np.load(folder / VECTORS)[:, : DIMENSION // 2].copy()
    np.save(folder / VECTORS, vectors)
    (folder / INDEX).unlink()
    build_index(vectors).save_index(str(folder / INDEX))


def shapeless(folder: Path) -> None:
    """An index of the right size that is none: hnswlib does not survive it."""
    size = (folder / INDEX).stat().st_size
    content = (folder / INDEX).read_bytes()[:96] + np.random.default_rng(0).bytes(size - 96)
    (folder / INDEX).write_bytes(content)


def no_model(folder: Path) -> None:
    (folder / QUERY_TOWER).write_bytes(b"this is no model")


def swapped_towers(folder: Path) -> None:
    """A catalogue that is another's: fewer ids than vectors."""
    (folder / ITEMS).write_text('{"ids": ["a"], "popularity": [1.0], "fields": {"name": ["a"]}}')


def huge(folder: Path) -> None:
    """A tower that would take more memory than there is for it."""
    with (folder / QUERY_TOWER).open("r+b") as file:
        file.truncate(100 << 20)


@pytest.mark.parametrize(
    ("name", "change", "fields", "expected"),
    [
        ("vectors and index of another dimension", narrower, {}, "vectors.npy"),
        ("a manifest of another dimension", lambda folder: None, {"dimension": 7}, "dimension"),
        ("an index that is none", shapeless, {}, "the trial"),
        ("a tower that is no model", no_model, {}, "ONNX Runtime cannot load it"),
        ("a catalogue of other items", swapped_towers, {}, "items.json"),
        ("a newer schema", lambda folder: None, {"schema_version": 99}, "schema version 99"),
        ("an older schema", lambda folder: None, {"schema_version": 1}, "schema version 1"),
        ("too large for the memory", huge, {}, "too large for the memory"),
        ("examples that cannot be answered", lambda folder: None, {"examples": ({"age": "x"},)}, "examples"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_bundle_that_is_no_good(
    world: World, name: str, change: Callable[[Path], None], fields: dict[str, Any], expected: str
) -> None:
    check(world, name, bad(change, **fields), expected)


def test_a_version_without_a_bundle(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        (world.made / "nothing").mkdir(exist_ok=True)
        (world.made / "nothing" / "readme.txt").write_text("nothing")
        world.versions.point(world.versions.add(world.made / "nothing"))
        return lambda: world.versions.point(coming)

    check(world, "a version without a bundle", inject, "holds 0 bundles")


def test_a_version_that_holds_another_bundle_than_it_says(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        world.versions.point(world.versions.add(world.bundles[coming], tag="f" * 64))
        return lambda: world.versions.point(coming)

    check(world, "a version that holds another bundle", inject, "expected ffffffffffff")


# Faults of the registry.


def test_a_registry_that_is_stopped(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        world.registry.stop()

        def heal() -> None:
            world.registry.start()
            world.versions.point(coming)

        return heal

    check(world, "the registry stopped", inject, "the registry does not answer")


def test_a_registry_that_hangs(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        world.registry.signal(signal.SIGSTOP)

        def heal() -> None:
            world.registry.signal(signal.SIGCONT)
            world.versions.point(coming)

        return heal

    check(world, "the registry hangs", inject, "the registry does not answer")


def test_a_database_that_is_locked(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        lock = sqlite3.connect(world.registry.database, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")

        def heal() -> None:
            lock.execute("ROLLBACK")
            lock.close()
            world.versions.point(coming)

        return heal

    check(world, "the registry's database locked", inject, "the registry does not answer")


def test_an_alias_that_is_deleted(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        world.versions.client.delete_registered_model_alias(NAME, ALIAS)
        return lambda: world.versions.point(coming)

    check(world, "the alias deleted", inject, "not in the registry")


def test_an_alias_of_a_version_that_is_deleted(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        gone = world.versions.add_bundle(world.bundles[coming])
        # An alias that names no version can be made in the store alone: MLflow's interface takes both away.
        world.versions.client.delete_model_version(NAME, gone)
        with sqlite3.connect(world.registry.database) as store:
            store.execute("UPDATE registered_model_aliases SET version = ? WHERE name = ?", (gone, NAME))
        return lambda: world.versions.point(coming)

    check(world, "the alias names a deleted version", inject, "not in the registry")


def test_artefacts_that_are_gone(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        files = world.versions.files(coming)
        kept = files.with_name("kept")
        files.rename(kept)
        world.versions.point(coming)
        return lambda: put_aside(kept, files)

    check(world, "the artefacts of a version gone", inject, f"models:/{NAME}/")


# Faults of this machine.


def set_limit(process: psutil.Process, limit: Any) -> None:
    process.rlimit(resource.RLIMIT_FSIZE, limit)


def test_a_disk_that_is_full(world: World) -> None:
    """A small disk of its own; where none can be mounted, files that may not grow stand in for it."""

    def inject(world: World) -> Heal:
        coming = world.other
        if world.disk:
            filler = world.disk / "filler"
            room = os.statvfs(world.disk)
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
            world.versions.point(coming)
            return filler.unlink
        process = world.service.processes("serving.following.registry")[0]
        before = process.rlimit(resource.RLIMIT_FSIZE)
        set_limit(process, (4096, before[1]))
        world.versions.point(coming)
        return lambda: set_limit(process, before)

    expected = "no space left on the disk" if world.disk else "it cannot be downloaded"
    check(world, "the disk of the cache is full", inject, expected)


def test_a_cache_that_is_no_folder(world: World) -> None:
    def inject(world: World) -> Heal:
        coming, cache = world.other, world.service.cache
        aside = cache.with_name("aside")
        cache.rename(aside)
        cache.write_text("in the way")
        world.versions.point(coming)

        def heal() -> None:
            cache.unlink()
            aside.rename(cache)

        return heal

    check(world, "a file where the cache was", inject, "File exists")


def test_a_download_that_is_killed(world: World) -> None:
    """The process that downloads is killed while it does, and so is the follower."""
    for name, victim in (
        ("kill -9 of a download", lambda service: service.processes("serving.following.registry")[0]),
        ("kill -9 of the follower in a download", lambda service: service.follower()),
    ):

        def inject(world: World, victim: Any = victim) -> Heal:
            coming = world.other
            files = world.versions.files(coming) / VECTORS
            whole = files.read_bytes()
            files.write_bytes(whole + bytes(64 << 20))  # it takes a while, and would be refused
            world.versions.point(coming)
            wait_for(lambda: list(world.service.cache.glob(".download-*/**/*")))
            victim(world.service).kill()
            return lambda: put_back(files, whole)

        check(world, name, inject, "")
        assert list(world.service.cache.glob(".download-*")) == []


def test_a_damaged_copy_in_the_cache_is_fetched_again(world: World) -> None:
    coming, service = world.other, world.service
    copy = service.cache / world.bundles[coming].name
    shutil.copytree(world.bundles[coming], copy)
    truncate(copy / INDEX)
    began = len(service.log())
    world.versions.point(coming)
    wait_for(lambda: service.served() == coming, 30, lambda: service.log(began))
    assert bundle.read(copy)
    assert f"{INDEX}: " in service.log(began)
    assert world.asker.errors == []


def test_two_promotions_at_once_end_with_what_the_registry_says(world: World) -> None:
    service, began = world.service, len(world.service.log())
    code = (
        "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); client = mlflow.MlflowClient()\n"
        f"for n in range(20): client.set_registered_model_alias('{NAME}', '{ALIAS}', sys.argv[2])"
    )
    command = [sys.executable, "-c", code, world.registry.uri]
    both = [subprocess.Popen([*command, version], cwd=ROOT, stderr=subprocess.DEVNULL) for version in "12"]
    assert [each.wait(60) for each in both] == [0, 0]
    final = world.versions.client.get_model_version_by_alias(NAME, ALIAS).version
    wait_for(lambda: service.served() == final, 30, lambda: service.log(began))
    assert world.asker.errors == []


def test_a_start_without_the_registry(world: World, tmp_path: Path) -> None:
    """From the cache, with what was served last; and it follows when the registry comes back."""
    served = world.service.served()
    world.registry.stop()
    try:
        cache = tmp_path / "cache"
        shutil.copytree(world.service.cache.parent, cache)
        second = Service(world.registry.uri, tmp_path)
        try:
            assert second.served() == served
            assert "which was served last" in second.log()
            wait_for(lambda: "the registry does not answer" in second.following()["last_error"])
            world.registry.start()
            coming = world.other
            world.versions.point(coming)
            wait_for(lambda: second.served() == coming, 60, lambda: (second.following(), second.log()))
        finally:
            second.stop()
    finally:
        if world.registry.process and world.registry.process.poll() is not None:
            world.registry.start()


def test_a_worker_that_is_killed_comes_back_with_what_is_served(world: World) -> None:
    coming, service = world.other, world.service
    world.versions.point(coming)
    wait_for(lambda: service.served() == coming and not service.following()["candidate"])
    victim = alive(service)[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: service.state()["workers_up"] == 2 and victim not in {e["pid"] for e in alive(service)})
    versions = set()
    for _ in range(20):
        with RetrievalClient(service.told["address"]) as client:
            versions.add(client.search("bavuti").bundle_version[:12])
    assert versions == {world.bundles[coming].name}
    world.asker.errors.clear()  # those of its connection
