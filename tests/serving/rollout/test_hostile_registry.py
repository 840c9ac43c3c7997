"""A real MLflow registry with hostile tags and versions: nothing is removed, and the champion answers."""

import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.serving.library import NAME, Library, Service, library_of, service
from tests.helpers.tampered import DEEP, listed, reseal_table
from tests.helpers.tiny import tiny_bundle
from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged, Unavailable
from twinspire.serving import bundles
from twinspire.serving.rollout.bundle_cache import BundleCache
from twinspire.serving.rollout.target import bundle_at

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive]

CHAMPION = f"models:/{NAME}@champion"
VERSION = "f" * 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three good bundles that differ; no test ever serves the last."""
    parent = tmp_path_factory.mktemp("versions")
    return [tiny_bundle(parent, 20, report=f'{{"n": {n}}}\n') for n in range(3)]


@pytest.fixture(scope="module")
def library(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, folders: list[Path]
) -> Iterator[Library]:
    """Versions 1 and 2, of which the first is champion."""
    with library_of(tmp_path_factory.mktemp("library"), empty_store, folders[:2]) as made:
        yield made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the service; its cache is `place/cache/bundles`."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def running(library: Library, place: Path) -> Iterator[Service]:
    """A service that follows the alias."""
    follow = {"model": CHAMPION, "poll": 0.1, "cache": str(place / "cache" / "bundles")}
    with service(place, **follow) as running:
        yield running
    assert "Traceback" not in (place / "log").read_text()


@pytest.fixture
def served(running: Service, library: Library) -> Service:
    """The service, which serves the first version."""
    library.point("1")
    running.champion("1")
    return running


@pytest.fixture
def victim() -> Iterator[Path]:
    """A folder with an absolute path of less than 12 characters, and a file in it."""
    folder = Path("/tmp") / secrets.token_hex(3)
    folder.mkdir()
    (folder / "thesis").write_text("three years of work")
    yield folder
    shutil.rmtree(folder)


def tagged(library: Library, folder: Path, tag: str) -> str:
    """A new version of a good bundle, with a tag of its own."""
    version = library.add(folder)
    library.client.set_model_version_tag(NAME, version, "bundle_version", tag)
    return version


def tree(folder: Path) -> list[str]:
    return sorted(
        str(each.relative_to(folder)) for each in folder.rglob("*") if ".download-" not in str(each)
    )


def test_a_tag_that_is_a_path_removes_nothing_when_a_version_is_fetched(
    library: Library, folders: list[Path], victim: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "bundles"
    bundles.download(f"models:/{NAME}/2", cache)
    shutil.copytree(victim, tmp_path / "x")
    before = tree(tmp_path)
    for tag in (str(victim), "../../x", ".", "..", "", VERSION.upper(), VERSION[:-1]):
        version = tagged(library, folders[0], tag)
        with pytest.raises(
            BundleDamaged, match="tag bundle_version: expected 64 lowercase hexadecimal digits"
        ):
            bundles.download(f"models:/{NAME}/{version}", cache)
        assert tree(tmp_path) == before
        assert (victim / "thesis").read_text() == "three years of work"
    version = tagged(library, folders[0], str(victim))
    command = [sys.executable, "-m", "twinspire.serving.bundles", f"models:/{NAME}/{version}", str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: models:/{NAME}/{version}: tag bundle_version: expected 64 lowercase" in done.stderr
    assert "Traceback" not in done.stderr
    assert (victim / "thesis").exists()


def test_a_tag_that_only_begins_like_a_bundle_that_is_there_removes_nothing(
    library: Library, folders: list[Path], tmp_path: Path
) -> None:
    own = Path(shutil.copytree(folders[0], tmp_path / folders[0].name))  # exported here
    tag = bundle.read(own).bundle_version[:12] + "0" * 52
    with pytest.raises(BundleDamaged, match="holds bundle"):
        bundles.download(f"models:/{NAME}/{tagged(library, folders[1], tag)}", tmp_path)
    assert bundle.read(own) == bundle.read(folders[0])


def test_only_what_a_cache_has_fetched_is_removed_when_it_is_damaged(
    library: Library, tmp_path: Path
) -> None:
    model = f"models:/{NAME}/1"
    fetched = bundles.download(model, tmp_path)
    (fetched / bundle.ITEMS).write_bytes(b"{}")
    assert bundle.read(bundles.download(model, tmp_path))
    (fetched / ".fetched").unlink()  # as one that was exported here
    (fetched / bundle.ITEMS).write_bytes(b"{}")
    (fetched / "notes").write_text("of its owner")
    with pytest.raises(
        Unavailable, match=r"was not fetched by this cache, .* move it away .*items\.json: 2 bytes"
    ):
        bundles.download(model, tmp_path)
    assert (fetched / "notes").exists()


def deep(files: Path) -> None:
    (files / bundle.MANIFEST).write_bytes(DEEP)


def absolute(files: Path) -> None:
    (files.parent / "secret").write_text("not for readers")
    record = {**listed(files.parent / "secret"), "sha256": "0" * 64}
    reseal_table(files, lambda table: table["files"].update({str(files.parent / "secret"): record}))


def empty_beam(files: Path) -> None:
    reseal_table(files, lambda table: table["index"].update(ef_search=0))


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (deep, "nested more than 64 levels deep"),
        (absolute, "files: expected a plain relative file name"),
        (empty_beam, "index.ef_search: expected 1 to "),
    ],
)
def test_a_hostile_manifest_is_refused_by_a_service_and_at_its_start(
    served: Service,
    library: Library,
    folders: list[Path],
    tmp_path: Path,
    harm: Callable[[Path], None],
    expected: str,
) -> None:
    version = library.add(folders[2])
    harm(library.file(version, bundle.MANIFEST).parent)
    (follower,) = served.read()["followers"]
    library.point(version)
    notes = served.fails(expected)
    assert notes["target"]["champion"]["model_version"] == "1"
    assert notes["followers"] == [follower]  # it has not died of it
    assert notes["following"]["refused"] >= 1
    secret = library.file(version, bundle.MANIFEST).parent.parent / "secret"
    if secret.exists():
        assert listed(secret)["sha256"] not in str(notes)

    cache = BundleCache(tmp_path)
    first = shutil.copytree(folders[0], tmp_path / folders[0].name)
    cache.point(CHAMPION, bundle_at(cache.folder, bundle.read(first).bundle_version, "1"))
    assert bundles.first(CHAMPION, tmp_path) == (first, "1")
    library.point("1")
    served.champion("1")
