"""A registry, a disk or a process that fails: the champion answers, and it can be seen.

Each fault is injected while the service is asked all the time. Then no request may fail, all answers must be
the champion's, and `Info`, metrics and log must tell of it. When the fault goes, the service must come to
serve what the alias names, without a restart.
"""

import json
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.serving.faulty import ALIAS, NAME, Service
from tests.helpers.serving.world import Heal, World, alive, check, put_back, truncate
from tests.helpers.waiting import wait_until
from twinspire.protos.bundle import MANIFEST, VECTORS
from twinspire.serving.client import RetrievalClient

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive]


# Faults of the registry.


def stop(world: World) -> Heal:
    world.registry.stop()
    return world.registry.start


def hang(world: World) -> Heal:
    world.registry.signal(signal.SIGSTOP)
    return lambda: world.registry.signal(signal.SIGCONT)


def lock(world: World) -> Heal:
    connection = sqlite3.connect(world.registry.database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection.close  # which rolls back


@pytest.mark.parametrize(
    ("name", "break_down"),
    [("the registry stopped", stop), ("the registry hangs", hang), ("the registry's database locked", lock)],
    ids=["stopped", "hangs", "locked"],
)
def test_a_registry_that_does_not_answer(
    world: World, name: str, break_down: Callable[[World], Heal]
) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        mend = break_down(world)

        def heal() -> None:
            mend()
            world.versions.point(coming)

        return heal

    check(world, name, inject, "the registry does not answer")


def test_an_alias_that_is_deleted(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        world.versions.client.delete_registered_model_alias(NAME, ALIAS)
        return lambda: world.versions.point(coming)

    check(world, "the alias deleted", inject, "not in the registry")


def test_artefacts_that_are_gone(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        files = world.versions.files(coming)
        kept = files.with_name("kept")
        files.rename(kept)
        world.versions.point(coming)

        def heal() -> None:
            kept.rename(files)

        return heal

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
        process = world.service.processes("twinspire.serving.rollout.registry")[0]
        before = process.rlimit(resource.RLIMIT_FSIZE)
        set_limit(process, (4096, before[1]))
        world.versions.point(coming)
        return lambda: set_limit(process, before)

    expected = "no space left on the disk" if world.disk else "it cannot be downloaded"
    check(world, "the disk of the cache is full", inject, expected)


def test_a_download_that_is_killed(world: World) -> None:
    """The process that downloads is killed while it does, and so is the follower."""
    for name, victim in (
        ("kill -9 of a download", lambda service: service.processes("twinspire.serving.rollout.registry")[0]),
        ("kill -9 of the follower in a download", lambda service: service.follower()),
    ):

        def inject(world: World, victim: Any = victim) -> Heal:
            coming = world.other
            files = world.versions.files(coming) / VECTORS
            whole = files.read_bytes()
            files.write_bytes(whole + bytes(128 << 20))  # it takes a while, and would be refused
            world.versions.point(coming)
            wait_until(lambda: list(world.service.cache.glob(".download-*/**/*")))
            victim(world.service).kill()
            return lambda: put_back(files, whole)

        check(world, name, inject, "")
        assert list(world.service.cache.glob(".download-*")) == []


def test_a_start_without_the_registry(world: World, tmp_path: Path) -> None:
    """From the cache, with what was served last; and it follows when the registry comes back."""
    served = world.service.served()

    def is_noted() -> bool:  # which comes after the workers have changed
        notes = [json.loads(each.read_text()) for each in world.service.cache.parent.rglob(".served/*.json")]
        return [note["model_version"] for note in notes] == [served]

    wait_until(is_noted, 30, world.service.log)
    world.registry.stop()
    try:
        cache = tmp_path / "cache"
        shutil.copytree(world.service.cache.parent, cache)
        second = Service(world.registry.uri, tmp_path)
        try:
            assert second.served() == served
            assert "which was served last" in second.log()
            wait_until(lambda: "the registry does not answer" in second.following()["last_error"])
            world.registry.start()
            coming = world.other
            world.versions.point(coming)
            wait_until(lambda: second.served() == coming, 60, lambda: (second.following(), second.log()))
        finally:
            second.stop()
    finally:
        if world.registry.process and world.registry.process.poll() is not None:
            world.registry.start()


def test_a_worker_that_is_killed_comes_back_with_what_is_served(world: World) -> None:
    coming, service = world.other, world.service
    world.versions.point(coming)
    wait_until(lambda: service.served() == coming and not service.following()["candidate"])
    victim = alive(service)[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: service.state()["workers_up"] == 2 and victim not in {e["pid"] for e in alive(service)}
    )
    versions = set()
    for _ in range(20):
        with RetrievalClient(service.told["address"]) as client:
            versions.add(client.search("bavuti").bundle_version[:12])
    assert versions == {world.bundles[coming].name}
    world.asker.errors.clear()  # those of its connection


# One file in the registry is damaged: of the other good version, which is the one to come.


@pytest.mark.parametrize("name", [VECTORS, MANIFEST])
def test_a_truncated_file(world: World, name: str) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        path = world.versions.files(coming) / name
        whole = path.read_bytes()
        truncate(path)
        world.versions.point(coming)
        return lambda: put_back(path, whole)

    expected = f"{name}: " if name != MANIFEST else "manifest.json: not a bundle's manifest"
    check(world, f"{name} truncated", inject, expected)


# Faults of bundles: a version that is whole, and no good.


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dimension": 7}, "dimension"),
        ({"schema_version": 99}, "schema version 99"),
        ({"examples": ({"age": "x"},)}, "examples"),
    ],
    ids=["another dimension", "a newer schema", "examples that cannot be answered"],
)
def test_a_bundle_that_is_no_good(world: World, fields: dict[str, Any], expected: str) -> None:
    def inject(world: World) -> Heal:
        world.versions.point(world.bad(**fields))
        coming = world.other
        return lambda: world.versions.point(coming)

    check(world, f"a bundle with {fields}", inject, expected)


def test_a_version_without_a_bundle(world: World) -> None:
    def inject(world: World) -> Heal:
        coming = world.other
        (world.made / "nothing").mkdir(exist_ok=True)
        (world.made / "nothing" / "readme.txt").write_text("nothing")
        world.versions.point(world.versions.add(world.made / "nothing", tag="0" * 64))
        return lambda: world.versions.point(coming)

    check(world, "a version without a bundle", inject, "holds 0 bundles")
