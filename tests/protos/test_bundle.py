"""A bundle is whole, unaltered and known, or it is refused with an error that names the file."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protos import bundle
from protos.bundle import MANIFEST, REQUIRED, SCHEMA_VERSION, Manifest
from protos.errors import BundleDamaged, BundleError, BundleTooNew, BundleTooOld
from tests.tiny import item_ids, tiny_bundle, tiny_manifest
from tests.tiny_towers import TinyTower


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 20 items that tests may alter, if they put it right again."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), items=20, examples=())


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def positions(size: int) -> list[int]:
    """First, last, and some in between."""
    drawn = random.Random(0).sample(range(size), min(size, 20))
    return sorted({0, size - 1, *drawn})


def refusal(read: Callable[[Path], Manifest], folder: Path) -> str:
    """Why a bundle is refused; empty where it is not."""
    try:
        read(folder)
    except BundleError as error:
        return str(error)
    return ""


def altered(path: Path, choose: list[int], value: int | None = None) -> Iterator[int]:
    """Alter one byte at a time, yield its position, and put it right again."""
    content = path.read_bytes()
    try:
        for position in choose:
            changed = bytearray(content)
            changed[position] = changed[position] ^ 1 if value is None else value
            if changed != content:
                path.write_bytes(changed)
                yield position
    finally:
        path.write_bytes(content)


def test_reads_what_was_written(folder: Path) -> None:
    manifest = bundle.read(folder)
    assert (manifest.name, manifest.count, manifest.dimension) == ("tiny", 20, 32)
    assert set(manifest.files) >= set(REQUIRED) | {"reports/quality.json"}
    assert folder.name == manifest.bundle_version[:12]
    assert json.loads((folder / bundle.ITEMS).read_text())["ids"] == item_ids(20)


def test_one_altered_byte_of_any_file_is_refused_by_name(folder: Path) -> None:
    for path in files(folder):
        for position in altered(path, positions(path.stat().st_size)):
            assert f"/{path.name}: " in refusal(bundle.read, folder), f"byte {position}"
    bundle.read(folder)


def test_any_altered_byte_of_the_manifest_is_refused(folder: Path) -> None:
    path = folder / MANIFEST
    for position in altered(path, list(range(path.stat().st_size))):
        assert f"/{MANIFEST}: " in refusal(bundle.read_manifest, folder), f"byte {position}"
    bundle.read(folder)


def test_an_altered_number_of_the_manifest_is_refused(folder: Path) -> None:
    path = folder / MANIFEST
    signs = [n for n, byte in enumerate(path.read_bytes()) if byte in b"-.,:"]
    for position in altered(path, signs, ord("9")):  # other valid JSON: 1.3e-07 becomes infinite
        assert f"/{MANIFEST}: " in refusal(bundle.read_manifest, folder), f"byte {position}"
    bundle.read(folder)


def test_a_cut_or_longer_file_is_refused_by_name(folder: Path) -> None:
    for path in files(folder):
        content = path.read_bytes()
        for changed in (b"", content[:-1], content + b"\n"):
            path.write_bytes(changed)
            with pytest.raises(BundleDamaged, match=f"/{path.name}: "):
                bundle.read(folder)
        path.write_bytes(content)
    bundle.read(folder)


def test_a_missing_file_is_refused_by_name(folder: Path) -> None:
    for path in files(folder):
        aside = path.rename(path.with_suffix(".aside"))
        with pytest.raises(BundleDamaged, match=f"/{path.name}: "):
            bundle.read(folder)
        aside.rename(path)
    bundle.read(folder)


def test_a_manifest_from_the_future_is_refused(folder: Path) -> None:
    path = folder / MANIFEST
    content = path.read_bytes()
    table = {**json.loads(content), "schema_version": SCHEMA_VERSION + 1, "something_new": True}
    path.write_text(json.dumps(table))
    with pytest.raises(BundleTooNew, match=f"/{MANIFEST}: schema version 4"):
        bundle.read(folder)
    path.write_bytes(content)


def test_a_manifest_from_the_past_is_refused(folder: Path) -> None:
    path = folder / MANIFEST
    content = path.read_bytes()
    path.write_text(json.dumps({**json.loads(content), "schema_version": SCHEMA_VERSION - 1}))
    with pytest.raises(BundleTooOld, match="export it again"):
        bundle.read(folder)
    path.write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"schema_version": 3}', b"1"])
def test_something_else_than_a_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleDamaged, match=f"/{MANIFEST}: "):
        bundle.read(tmp_path)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleDamaged, match=f"/{MANIFEST}: cannot be read"):
        bundle.read(tmp_path)


def test_the_same_content_is_the_same_bundle(tmp_path: Path) -> None:
    first = tiny_bundle(tmp_path, items=20)
    written = (first / MANIFEST).stat().st_mtime_ns
    assert tiny_bundle(tmp_path, items=20) == first
    assert (first / MANIFEST).stat().st_mtime_ns == written
    assert tiny_bundle(tmp_path, items=20, report='{"better": true}') != first
    assert tiny_bundle(tmp_path, items=20, name="other") != first


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / bundle.ITEMS).write_text("{}")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        bundle.write(tmp_path / "bundles", tiny_manifest(20, TinyTower()), fill)
    assert list((tmp_path / "bundles").iterdir()) == []


def test_an_incomplete_write_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / bundle.ITEMS).write_text("{}")

    with pytest.raises(BundleDamaged, match=bundle.QUERY_TOWER):
        bundle.write(tmp_path / "bundles", tiny_manifest(20, TinyTower()), fill)
    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "port"
    bundle.write_file(path, b"1")
    bundle.write_file(path, b"2")
    assert path.read_bytes() == b"2"
    with pytest.raises(TypeError):
        bundle.write_file(path, None)  # type: ignore[arg-type]
    assert path.read_bytes() == b"2"
    assert list(path.parent.iterdir()) == [path]
