"""The follower on a real registry, in its real processes, while one thing after the other goes wrong."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.serving.following import newer_schema
from tests.helpers.serving.library import NAME, Library, Service, library_of, service
from tests.helpers.tiny import tiny_bundle
from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged, MissingStage, Unavailable
from twinspire.serving import bundles
from twinspire.serving.rollout.bundle_cache import BundleCache
from twinspire.serving.rollout.follower import FollowConfig, validator
from twinspire.serving.rollout.registry import Registered, cleaned
from twinspire.serving.rollout.registry_process import RegistryProcess

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive]

CHAMPION, CHALLENGER = f"models:/{NAME}@champion", f"models:/{NAME}@challenger"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four good bundles that differ, and one that does not answer its own examples."""
    parent = tmp_path_factory.mktemp("versions")
    good = [tiny_bundle(parent, 20, report=f'{{"n": {n}}}\n') for n in range(4)]
    return [*good, tiny_bundle(parent, 20, examples=({"colour": "red"},))]


@pytest.fixture(scope="module")
def library(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, folders: list[Path]
) -> Iterator[Library]:
    """Versions 1 to 5 of the bundles, of which the first is champion."""
    with library_of(tmp_path_factory.mktemp("library"), empty_store, folders) as made:
        yield made


@pytest.fixture(scope="module")
def registry(library: Library) -> Iterator[RegistryProcess]:
    with RegistryProcess() as registry:
        yield registry


def test_the_registry_tells_versions_and_gives_bundles(
    registry: RegistryProcess, folders: list[Path], tmp_path: Path
) -> None:
    version = bundle.read(folders[0]).bundle_version
    assert registry.resolve(CHAMPION) == Registered(NAME, "1", version)
    assert registry.resolve(f"models:/{NAME}/2").version == "2"
    folder = BundleCache(tmp_path).take(registry.resolve(CHAMPION), registry)
    assert bundle.read(folder).bundle_version == version


@pytest.mark.parametrize("model", [CHALLENGER, "models:/nobody@champion", f"models:/{NAME}/99", "nonsense"])
def test_what_is_not_there_is_missing(registry: RegistryProcess, model: str) -> None:
    with pytest.raises(MissingStage, match=f"{model}: not in the registry"):
        registry.resolve(model)


def test_a_version_without_its_files_cannot_be_downloaded(
    registry: RegistryProcess, library: Library, tmp_path: Path
) -> None:
    wanted = registry.resolve(f"models:/{NAME}/4")
    kept = library.file("4", "").parent
    kept.rename(kept.with_name("moved"))
    try:
        with pytest.raises(BundleDamaged, match=f"models:/{NAME}/4: holds 0 bundles"):
            BundleCache(tmp_path).take(wanted, registry)
    finally:
        kept.with_name("moved").rename(kept)
    assert list(tmp_path.iterdir()) == []


def registry_processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [each for each in children if "twinspire.serving.rollout.registry" in each.cmdline()]


def newest_child() -> psutil.Process:
    """The process that was started last; this one may have others, from earlier tests."""
    return max(psutil.Process().children(), key=psutil.Process.create_time)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no files that a process has mapped")
def test_the_process_loads_neither_pandas_nor_polars(registry: RegistryProcess) -> None:
    registry.resolve(CHAMPION)
    process = newest_child()
    assert process in registry_processes()
    mapped = [each.path for each in process.memory_maps()]
    assert [path for path in mapped if "/google/" in path]  # protobuf, which MLflow's client uses
    assert [path for path in mapped if "/pandas/" in path or "/polars" in path] == []


def test_a_process_that_was_killed_is_started_again(registry: RegistryProcess) -> None:
    registry.resolve(CHAMPION)
    child = newest_child()
    child.kill()
    psutil.wait_procs([child])
    assert registry.resolve(CHAMPION).version == "1"
    child = newest_child()
    child.suspend()
    threading.Timer(0.3, child.kill).start()
    with pytest.raises(Unavailable, match=r"the registry's process ended \(exit code -9\)"):
        registry.resolve(CHAMPION)


def test_an_answer_that_does_not_come_is_not_waited_for(library: Library) -> None:
    with RegistryProcess(timeout=0.5) as registry:
        registry.resolve(CHAMPION)
        child = newest_child()
        child.suspend()
        with pytest.raises(Unavailable, match=r"did not answer within 0\.5 s"):
            registry.resolve(CHAMPION)
        assert not child.is_running()
        stop = threading.Event()
        stop.set()
    with RegistryProcess(stop) as registry, pytest.raises(Unavailable, match="the service stops"):
        registry.resolve(CHAMPION)


def test_a_server_that_nobody_hears_from_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        port = silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:secret@127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with RegistryProcess() as registry, pytest.raises(Unavailable) as caught:
            registry.resolve(CHAMPION)
    assert "timed out" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_errors_are_short_and_hold_no_secrets() -> None:
    text = "HTTPConnection(host='a')\n: more"
    assert cleaned(text) == "HTTPConnection(host='a')"
    assert cleaned("no postgresql://me:pw@db/x") == "no postgresql://db/x"
    assert cleaned("no postgresql://me:p@ss@db/x") == "no postgresql://db/x"
    assert cleaned("http://a:b@c/d at http://e:f@@g:1/h@i") == "http://c/d at http://g:1/h@i"
    assert cleaned("http://c/models@e and https://a.b") == "http://c/models@e and https://a.b"
    assert cleaned("at https://s3/b?X-Amz-Signature=ab&c=d failed") == "at https://s3/b failed"
    one, other = (cleaned(f"(<urllib3.Connection object at 0x{n}>: refused)") for n in ("7f0", "7f1"))
    assert one == other == "(refused)"
    long = cleaned("because " * 500 + "it timed out")
    assert len(long) < 310
    assert long.endswith("it timed out")  # the cause stands at the end
    assert cleaned("(sqlite3.OperationalError) database is locked\n[SQL: select]") == "its database is locked"


def test_a_process_goes_with_the_one_that_asked(library: Library) -> None:
    code = (
        "import sys, time; from twinspire.serving.rollout.registry_process import RegistryProcess\n"
        "registry = RegistryProcess(); registry.resolve(sys.argv[1])\n"
        "print(registry._process.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, CHAMPION], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_bundle_that_is_too_large_for_all_workers_is_refused(folders: list[Path]) -> None:
    attempt = validator(FollowConfig(CHAMPION), False, threading.Event())
    with pytest.raises(Unavailable, match="takes more memory than the 0 MiB that the machine leaves"):
        attempt(folders[0], 1 << 40)
    assert validator(FollowConfig(CHAMPION), False, threading.Event())(folders[0], 2) > 0


@pytest.fixture(scope="module")
def running(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that follows both aliases; its folder is its cache."""
    folder = tmp_path_factory.mktemp("service")
    follow = {"model": CHAMPION, "poll": 0.2, "cache": str(folder / "cache"), "canary": CHALLENGER}
    with service(folder, **follow) as running:
        yield running
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture
def served(running: Service, library: Library) -> Service:
    """The service, which serves the second version to everybody's content, without a canary."""
    library.unpoint("challenger")
    library.point("2")
    running.until(lambda notes: not notes["target"]["canary"])
    running.champion("2")
    return running


def still_serves(notes: Any, version: str = "2") -> bool:
    """It serves what it served before, and tells that there is something wrong."""
    following = notes["following"]
    return bool(notes["target"]["champion"]["model_version"] == version and following["failures"] > 0)


def test_a_move_of_the_alias_reaches_every_worker(
    served: Service, library: Library, folders: list[Path]
) -> None:
    before = served.read()
    library.point("1")
    notes = served.champion("1")
    assert notes["target"]["champion"]["bundle_version"] == bundle.read(folders[0]).bundle_version
    assert notes["target"]["serial"] == before["target"]["serial"] + 1
    assert notes["following"]["swaps"] == before["following"]["swaps"] + 1


def test_a_download_that_is_damaged_is_refused_until_it_is_whole(served: Service, library: Library) -> None:
    path = library.file("3", bundle.VECTORS)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    library.point("3")
    assert still_serves(served.fails("version 3 is refused: models:/tiny/3: vectors.npy: sha256 is"))
    path.write_bytes(content)
    served.champion("3")


def test_a_bundle_that_does_not_answer_its_examples_is_refused(
    served: Service, library: Library, folders: list[Path]
) -> None:
    library.point("5")
    notes = served.fails(f"version 5 is refused: {folders[4].name}: ")
    assert still_serves(notes)
    assert "unknown feature" in notes["following"]["last_error"]
    assert (notes["following"]["candidate"], notes["following"]["candidate_stage"]) == ("5", "refused")


def test_a_bundle_of_a_newer_schema_is_refused(
    served: Service, library: Library, folders: list[Path], tmp_path: Path
) -> None:
    library.point(library.add(newer_schema(folders[3], tmp_path)))
    assert still_serves(served.fails("schema version 5, expected 3 to 4"))


def test_a_registry_that_goes_and_comes_back_is_no_reason_to_stop(served: Service, library: Library) -> None:
    with away(library):
        assert still_serves(served.fails("there is no registry at"))
        assert not library.database.exists()  # nor does asking for it make one
    served.champion("2")


def test_a_database_that_is_locked_is_waited_for(served: Service, library: Library) -> None:
    with closing(sqlite3.connect(library.database, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        assert still_serves(served.fails("its database is locked"))
        database.execute("ROLLBACK")
    served.champion("2")


def test_an_alias_or_a_version_that_is_deleted_leaves_what_is_served(
    served: Service, library: Library, folders: list[Path]
) -> None:
    library.unpoint()
    assert still_serves(served.fails("not in the registry"))
    doomed = library.add(folders[3])
    library.point("2")
    served.champion("2")
    library.point(doomed)
    library.client.delete_model_version(NAME, doomed)
    served.fails("not in the registry")
    assert served.read()["target"]["champion"]["model_version"] in ("2", doomed)  # if it was that quick


def test_a_canary_comes_and_goes_and_a_bad_one_stays_away(served: Service, library: Library) -> None:
    library.point("4", "challenger")
    served.until(lambda notes: (notes["target"]["canary"] or {}).get("model_version") == "4")
    library.point("5", "challenger")
    notes = served.until(lambda notes: "version 5" in notes["following"]["canary"]["last_error"])
    assert notes["target"]["canary"]["model_version"] == "4"
    assert notes["following"]["last_error"] == ""
    library.unpoint("challenger")
    served.until(lambda notes: not notes["target"]["canary"])


def test_a_follower_that_is_killed_goes_on_where_it_was(served: Service, library: Library) -> None:
    before = served.read()
    (victim,) = before["followers"]
    os.kill(victim, signal.SIGKILL)
    notes = served.until(lambda notes: len(notes["followers"]) == 1 and notes["followers"] != [victim])
    assert notes["target"] == before["target"]
    library.point("1")
    after = served.champion("1")
    assert after["target"]["serial"] == before["target"]["serial"] + 1


def test_a_service_starts_with_what_it_served_last(
    registry: RegistryProcess, library: Library, folders: list[Path], tmp_path: Path
) -> None:
    cache = BundleCache(tmp_path)
    second = cache.take(registry.resolve(f"models:/{NAME}/2"), registry)
    cache.point(CHAMPION, bundle.read(second).bundle_version, "2")
    with away(library):
        assert bundles.first(CHAMPION, tmp_path) == (second, "2")
    library.point("5")  # which cannot be served
    assert bundles.first(CHAMPION, tmp_path) == (second, "2")
    library.point("3")
    assert bundles.first(CHAMPION, tmp_path) == (tmp_path / folders[2].name, "3")


def test_a_service_that_never_served_anything_says_why_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(MissingStage, match="models:/nobody@champion: not in the registry"):
        bundles.first("models:/nobody@champion", tmp_path)


@contextmanager
def away(library: Library) -> Iterator[None]:
    """The registry is not there."""
    elsewhere = library.database.with_name("elsewhere")
    library.database.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(library.database)
