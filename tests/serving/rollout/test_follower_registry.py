"""The follower on a real registry, in its real processes, while one thing after the other goes wrong."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.helpers.serving.library import NAME, Library, library_of
from tests.helpers.tiny import tiny_bundle
from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.serving import bundles
from twinspire.serving.rollout.bundle_cache import BundleCache
from twinspire.serving.rollout.follower import FollowConfig, validator
from twinspire.serving.rollout.registry import Registered, RegistryProcess, cleaned
from twinspire.serving.rollout.target import bundle_at

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive]

CHAMPION = f"models:/{NAME}@champion"


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
        "import sys, time; from twinspire.serving.rollout.registry import RegistryProcess\n"
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


def test_a_service_starts_with_what_it_served_last(
    registry: RegistryProcess, library: Library, folders: list[Path], tmp_path: Path
) -> None:
    cache = BundleCache(tmp_path)
    second = cache.take(registry.resolve(f"models:/{NAME}/2"), registry)
    cache.point(CHAMPION, bundle_at(cache.folder, bundle.read(second).bundle_version, "2"))
    with away(library):
        assert bundles.first(CHAMPION, tmp_path) == (second, "2")
    library.point("5")  # which cannot be served
    assert bundles.first(CHAMPION, tmp_path) == (second, "2")
    library.point("3")
    assert bundles.first(CHAMPION, tmp_path) == (tmp_path / folders[2].name, "3")


@pytest.mark.usefixtures("library")
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
