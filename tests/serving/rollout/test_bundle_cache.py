"""The cache of bundles: fetched once, verified each time, and whole whatever happens to it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.serving.following import CHAMPION, Shelf
from tests.helpers.tiny import FILTERS, tiny_bundle
from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged, Unavailable
from twinspire.protos.files import atomic_directory
from twinspire.serving.rollout.bundle_cache import SPARE, BundleCache
from twinspire.serving.rollout.registry import Registered
from twinspire.serving.rollout.target import bundle_at

FILES = (*bundle.REQUIRED, bundle.MANIFEST, "reports/quality.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six bundles that differ."""
    parent = tmp_path_factory.mktemp("versions")
    return [tiny_bundle(parent, 20, report=f'{{"n": {n}}}\n') for n in range(6)]


@pytest.fixture
def shelf(folders: list[Path]) -> Shelf:
    return Shelf(*folders)


def registered(shelf: Shelf, version: str = "1") -> Registered:
    shelf.aliases[CHAMPION] = version
    return shelf.resolve(CHAMPION)


def version_of(shelf: Shelf) -> str:
    """The version of the champion's bundle."""
    return shelf.version(shelf.aliases[CHAMPION])


def visible(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_what_is_there_is_not_fetched_again(shelf: Shelf, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    folder = cache.take(registered(shelf), shelf)
    assert bundle.read(folder) == bundle.read(shelf.folders["1"])
    assert visible(tmp_path) == [shelf.folders["1"].name]
    wanted = registered(shelf)
    shelf.down = "gone"
    assert cache.take(wanted, shelf) == folder
    with pytest.raises(Unavailable, match="gone"):
        cache.take(wanted._replace(bundle_version="f" * 64), shelf)
    assert visible(tmp_path) == [folder.name]


def test_of_items_on_another_server_a_service_keeps_no_file_and_another_cache_all(tmp_path: Path) -> None:
    index = bundle.IndexParameters("ip", 16, 100, 64, kind="milvus", options={"type": "FLAT"})
    made = tiny_bundle(tmp_path / "made", 20, index=index, filters=FILTERS)
    manifest, shelf = bundle.read(made), Shelf(made)
    served = BundleCache(tmp_path / "cache").take(registered(shelf), shelf)
    of_items = {bundle.VECTORS, bundle.ITEMS, bundle.FILTERS}
    assert of_items <= manifest.files.keys()
    assert not any((served / name).exists() for name in of_items)
    assert bundle.read(served, is_served=True) == manifest
    with pytest.raises(BundleDamaged, match="missing"):
        bundle.read(served)
    whole = BundleCache(tmp_path / "cache", is_served=False).take(registered(shelf), shelf)
    assert whole == served and bundle.read(whole) == manifest
    assert BundleCache(tmp_path / "cache").take(registered(shelf), shelf) == whole


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["cut", "flipped", "missing"])
def test_what_is_damaged_is_fetched_anew(shelf: Shelf, tmp_path: Path, name: str, harm: str) -> None:
    cache = BundleCache(tmp_path)
    folder = cache.take(registered(shelf), shelf)
    path = folder / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:-1])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert cache.find(version_of(shelf)) is None
    assert cache.take(registered(shelf), shelf) == folder
    assert path.read_bytes() == content
    assert visible(tmp_path) == [folder.name]


def test_a_schema_of_the_future_in_the_cache_is_damage_too(shelf: Shelf, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    path = cache.take(registered(shelf), shelf) / bundle.MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"schema_version": 4', b'"schema_version": 5'))
    assert bundle.read(cache.take(registered(shelf), shelf))


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_download_is_refused_and_leaves_nothing(
    shelf: Shelf, folders: list[Path], tmp_path: Path, name: str
) -> None:
    wanted = registered(shelf)
    shelf.folders["1"] = tmp_path / "damaged"
    subprocess.run(["cp", "-r", folders[0], shelf.folders["1"]], check=True)
    (shelf.folders["1"] / name).write_bytes(b"{}")
    cache = BundleCache(tmp_path / "cache")
    with pytest.raises(BundleDamaged) as caught:
        cache.take(wanted, shelf)
    assert "models:/tiny/1: " in str(caught.value)
    assert atomic_directory.PREFIX not in str(caught.value)
    assert visible(cache.folder) == []


def test_another_bundle_than_the_registry_says_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    wanted = registered(shelf)
    shelf.folders["1"] = shelf.folders["2"]
    with pytest.raises(BundleDamaged, match=r"holds bundle \w{12}, expected"):
        BundleCache(tmp_path).take(wanted, shelf)
    assert visible(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_a_clear_error(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"file: (File exists|Not a directory)"):
        BundleCache(tmp_path / "file").take(registered(shelf), shelf)


FULL = """
import resource, sys
from pathlib import Path
from twinspire.protos.errors import Unavailable
from twinspire.serving.rollout.bundle_cache import BundleCache
from tests.helpers.serving.following import CHAMPION, Shelf
shelf, cache = Shelf(Path(sys.argv[1])), BundleCache(Path(sys.argv[2]), owns=True)
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    cache.take(shelf.resolve(CHAMPION), shelf)
except Unavailable as error:
    sys.exit(f"Unavailable: {error}")
"""


def run(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-B", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_a_disk_that_takes_no_more_leaves_the_cache_as_it_was(folders: list[Path], tmp_path: Path) -> None:
    kept = BundleCache(tmp_path).take(registered(Shelf(*folders), "2"), Shelf(*folders))
    done = run(FULL, folders[0], tmp_path, 1000)  # the system refuses to write more into one file
    assert done.returncode == 1
    assert done.stderr.startswith("Unavailable: ")
    assert "File too large" in done.stderr
    assert visible(tmp_path) == [kept.name]
    assert run(FULL, folders[0], tmp_path, 1 << 30).returncode == 0  # it has room again


KILLED = """
import os, sys
from pathlib import Path
from twinspire.serving.rollout.bundle_cache import BundleCache
from tests.helpers.serving.following import CHAMPION, Shelf
class Half(Shelf):
    def download(self, registered, draft):
        super().download(registered, draft)
        (draft / "bundle" / "index.hnsw").write_bytes(b"half")
        os.kill(os.getpid(), 9)
shelf = Half(Path(sys.argv[1]))
BundleCache(Path(sys.argv[2]), owns=True).take(shelf.resolve(CHAMPION), shelf)
"""


def test_a_process_that_is_killed_in_the_middle_of_a_download_leaves_no_bundle(
    shelf: Shelf, tmp_path: Path
) -> None:
    assert run(KILLED, shelf.folders["1"], tmp_path).returncode == -signal.SIGKILL
    assert list(tmp_path.glob(f"{atomic_directory.PREFIX}*/bundle"))
    assert visible(tmp_path) == [
        each for each in visible(tmp_path) if each.startswith(atomic_directory.PREFIX)
    ]
    cache = BundleCache(tmp_path)
    assert cache.find(version_of(shelf)) is None
    assert atomic_directory.remove_abandoned(tmp_path) == 1
    assert bundle.read(cache.take(registered(shelf), shelf))
    assert visible(tmp_path) == [shelf.folders["1"].name]


def test_a_pointer_is_remembered(tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    assert cache.pointer(CHAMPION) is None
    for version in ("a" * 64, "b" * 64, "b" * 64):
        cache.point(CHAMPION, bundle_at(cache.folder, version, "1"))
    found = cache.pointer(CHAMPION)
    assert found and found.bundle_version[0] == "b"
    assert cache.pointer("models:/tiny@challenger") is None
    (path,) = (tmp_path / ".served").glob("*.json")
    for content in (b"", b"[]", b"{}", b'{"bundle_version": 1, "model_version": 2}', b"\xff"):
        path.write_bytes(content)
        assert cache.pointer(CHAMPION) is None


def test_what_was_served_last_is_found_where_it_is_whole(shelf: Shelf, tmp_path: Path) -> None:
    cache = BundleCache(tmp_path)
    assert cache.last_served(CHAMPION) is None
    folder = cache.take(registered(shelf, "2"), shelf)
    cache.point(CHAMPION, bundle_at(cache.folder, version_of(shelf), "2"))
    assert cache.last_served(CHAMPION) == bundle_at(folder, version_of(shelf), "2")
    (folder / bundle.LINKS).write_bytes(b"")
    assert cache.last_served(CHAMPION) is None


def test_only_old_downloads_are_removed(shelf: Shelf, folders: list[Path], tmp_path: Path) -> None:
    own = tiny_bundle(tmp_path, 25)  # exported here
    taken_by_hand = BundleCache(tmp_path).take(registered(shelf, "1"), shelf)
    cache = BundleCache(tmp_path, owns=True)
    downloads = [cache.take(registered(shelf, version), shelf) for version in "23456"]
    assert len(downloads) == SPARE + 2
    for n, folder in enumerate(downloads):
        os.utime(tmp_path / ".served" / "downloaded" / folder.name, (n, n))
    cache.point("models:/other@champion", bundle_at(cache.folder, version_of(shelf), "6"))
    needed = [bundle.read_manifest(downloads[0]).bundle_version]
    assert cache.prune(needed) == []  # the first is needed, the last is pointed at, three are kept
    assert cache.prune([]) == [downloads[0].name]
    kept = [own, taken_by_hand, *downloads[1:]]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted(each.name for each in kept)
    assert cache.prune([]) == []


def test_a_catalogue_that_is_ready_goes_with_its_bundle(
    shelf: Shelf, folders: list[Path], tmp_path: Path
) -> None:
    own = tiny_bundle(tmp_path, 25)
    cache = BundleCache(tmp_path, owns=True)
    cache.prune([])  # there is nothing yet
    downloads = [cache.take(registered(shelf, version), shelf) for version in "1234"]
    for n, folder in enumerate(downloads):
        os.utime(tmp_path / ".served" / "downloaded" / folder.name, (n, n))
    places = [cache.ready(folder) for folder in (own, *downloads, tmp_path / "gone")]
    dead = places[0].with_name(
        f"{atomic_directory.PREFIX}0123456789ab"
    )  # the draft of a process that was killed
    for place in (*places, dead):
        place.mkdir(parents=True)
        (place / "file").touch()
    dead.with_name(f"{dead.name}{atomic_directory.LOCK}").touch()
    with atomic_directory.draft(places[0].parent) as draft:
        assert cache.prune([]) == [downloads[0].name]
        kept = sorted([own.name, *(each.name for each in downloads[1:])])
        assert visible(places[0].parent) == sorted(
            [*kept, draft.name, f"{draft.name}{atomic_directory.LOCK}"]
        )
    assert (cache.ready(own) / "file").exists()


@pytest.mark.exhaustive
def test_two_processes_may_fetch_the_same(shelf: Shelf, tmp_path: Path) -> None:
    code = FULL.replace("try:", "import time; time.sleep(max(0, float(sys.argv[4]) - time.time()))\ntry:")
    at = time.time() + 2
    arguments = [str(shelf.folders["1"]), str(tmp_path), str(1 << 30), str(at)]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    assert bundle.read(tmp_path / shelf.folders["1"].name)
    assert not list(tmp_path.glob(f"{atomic_directory.PREFIX}*"))
