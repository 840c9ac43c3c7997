"""A catalogue made ready answers like one that is built; anything wrong with its files, and it is built."""

import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.serving.reacting import soon
from tests.helpers.tiny import tiny_bundle
from tests.load import alias
from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.protos.files import atomic_directory
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import Timing
from twinspire.serving.retrieval.query import Query, example_query
from twinspire.serving.rollout.loaded_bundle import LoadedBundle
from twinspire.serving.segments import shared_catalogue
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.packed_items import PackedItems, score_parts
from twinspire.serving.segments.shared_catalogue import (
    CODES,
    CONTENTS,
    ENDS,
    ITEMS,
    RANKING,
    SHARES,
    MappedCatalogue,
)

FILES = (CONTENTS, ITEMS, ENDS, CODES, RANKING, SHARES)
LOGGER = "twinspire.serving.segments.shared_catalogue"


def write(place: Path, folder: Path) -> Path:
    manifest = bundle.read(folder)
    catalogue = Catalogue(folder, manifest)
    shared_catalogue.write(place, manifest, catalogue, PackedItems(catalogue, score_parts(manifest)))
    return place


def opened(place: Path, folder: Path) -> Catalogue:
    return shared_catalogue.open_catalogue(place, folder, bundle.read(folder))


@pytest.fixture
def place(plain: Path, tmp_path: Path) -> Path:
    """Ready files of the plain bundle."""
    return write(tmp_path / "ready" / plain.name, plain)


@pytest.mark.parametrize("name", ["hybrid", "full", "watched"])
def test_it_answers_as_one_that_is_built(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    folder: Path
    folder = tiny_bundle(tmp_path, is_hybrid=True) if name == "hybrid" else request.getfixturevalue(name)
    place = write(tmp_path / "ready", folder)
    assert sorted(each.name for each in place.iterdir()) == sorted(FILES)
    built, mapped = LoadedBundle.load(folder), LoadedBundle.load(folder, ready=place)
    assert isinstance(mapped.retriever.built.catalogue, MappedCatalogue)
    assert mapped.responses.packed is mapped.retriever.built.catalogue.packed
    assert caplog.records == []
    queries = [*map(example_query, built.manifest.examples), Query(item_id="item-007")]
    exclude = ["item-006", "item-012", "nothing"]
    one, other = (
        each.retriever.search(queries, 10, exclude, exclude_history=True) for each in (built, mapped)
    )
    assert [each.hits for each in one] == [each.hits for each in other]
    for served in (built, mapped):
        encoded = served.retriever.encode(queries)
        found = served.retriever.find(encoded, [served.retriever.search_options(10, exclude)] * len(queries))
        told = [each.responses.batch_response(found, "v", Timing()) for each in (built, mapped)]
        assert told[0] == told[1]


def test_few_rows_are_kept_by_id(plain: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_catalogue, "MAX_CACHED", 3)
    built, mapped = Catalogue(plain, bundle.read(plain)), opened(place, plain)
    assert isinstance(mapped, MappedCatalogue)
    for row, item_id in enumerate(built.ids):
        assert mapped.find(item_id) == row
        assert 0 < len(mapped._cached) <= 3
    assert mapped.find("nothing") is None


def test_none_is_said_and_built(plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        served = LoadedBundle.load(plain, ready=tmp_path / "nothing")
    assert type(served.retriever.built.catalogue) is Catalogue
    assert [each.levelname for each in caplog.records] == ["INFO"]
    assert f"{plain.name}: no catalogue has been made ready" in caplog.text
    caplog.clear()
    assert type(LoadedBundle.load(plain).retriever.built.catalogue) is Catalogue
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((name, "flipped") for name in FILES),
        *((ENDS, harm) for harm in ("cut", "empty", "missing", "a folder")),
    ],
)
def test_whatever_is_damaged_is_built(
    plain: Path, place: Path, name: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = place / name
    content, middle = path.read_bytes(), path.stat().st_size // 2
    path.unlink()
    if harm == "a folder":
        path.mkdir()
    elif harm != "missing":
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:-2], "flipped": flipped, "empty": b""}[harm])
    with caplog.at_level(logging.INFO, LOGGER):
        catalogue = opened(place, plain)
    assert type(catalogue) is Catalogue
    assert catalogue.ids[7] == "item-007"
    assert len(caplog.records) == 1
    assert "builds its own" in caplog.text
    write(place, plain)
    assert type(opened(place, plain)) is MappedCatalogue


@pytest.mark.parametrize("changed", [{"format": 1}, {"wire": "0" * 64}, {"bundle_version": "f" * 64}])
def test_files_of_something_else_are_not_used(
    plain: Path, place: Path, changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = place / CONTENTS
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    assert type(opened(place, plain)) is Catalogue
    assert f"{CONTENTS}: of another bundle" in caplog.text


def test_what_is_being_used_may_be_removed(plain: Path, place: Path) -> None:
    served = LoadedBundle.load(plain, ready=place)
    before = served.retriever.search([Query(text="bavuti")], 10)[0].hits
    atomic_directory.remove(place)
    assert list(place.parent.iterdir()) == []
    # Equal bits: the same batch in the same process.
    assert served.retriever.search([Query(text="bavuti")], 10)[0].hits == before
    assert served.retriever.items.find("item-042") == 42


def test_several_may_write_the_same(plain: Path, tmp_path: Path) -> None:
    place, begin, failed = tmp_path / "ready" / "it", threading.Barrier(4), list[BaseException]()

    def run() -> None:
        begin.wait()
        try:
            write(place, plain)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    assert type(opened(place, plain)) is MappedCatalogue
    assert [each.name for each in place.parent.iterdir()] == ["it"]


LIMITED = """
import resource, sys
from pathlib import Path
from twinspire.serving.rollout import bundle_validation
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
print(bundle_validation._try(Path(sys.argv[1]), False, Path(sys.argv[2]), 1 << 40) > 0)
"""


def test_a_disk_that_is_full_is_no_fault_of_the_bundle(plain: Path, tmp_path: Path) -> None:
    place = tmp_path / "ready" / plain.name

    def run(limit: int) -> tuple[str, str]:
        command = [sys.executable, "-B", "-c", LIMITED, str(plain), str(place), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
        return done.stdout, done.stderr

    said, complaint = run(1000)
    assert said == "True\n"
    assert complaint == f"warning: no catalogue is made ready in {place}: File too large\n"
    assert list(place.parent.iterdir()) == []
    assert run(1 << 30) == ("True\n", "")
    assert type(opened(place, plain)) is MappedCatalogue


def mapped_items(address: str, server: "subprocess.Popen[bytes]", version: str) -> list[str]:
    """Paths of packed items in the workers' memory, as soon as a version answers."""
    until = time.monotonic() + 60
    with RetrievalClient(address) as client:
        while client.info().bundle_version != version:
            assert time.monotonic() < until, "another version is being served"
            time.sleep(0.05)
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            found += [each.path for each in process.memory_maps() if each.path.endswith(ITEMS)]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.exhaustive
def test_a_worker_maps_what_it_serves(tmp_path: Path) -> None:
    folders = [tiny_bundle(tmp_path, items) for items in (300, 200)]
    first, second = (bundle.read_manifest(each).bundle_version for each in folders)
    place = tmp_path / "cache" / "bundles" / ".served" / "ready"
    with (
        alias.registry(tmp_path, folders) as named,
        alias.follow(tmp_path, tmp_path / "cache", 1, poll=0.2) as server,
    ):
        assert mapped_items(server.address, server.process, first) == [str(place / first[:12] / ITEMS)]
        named.send(2)
        expected = [str(place / second[:12] / ITEMS)]  # and no longer the first's
        assert soon(lambda: mapped_items(server.address, server.process, second) == expected, 20)
