"""A bundle is whole, unaltered and known, or it is refused with an error that names the file."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving.following import reseal
from tests.helpers.tampered import DEEP, listed, tampered
from tests.helpers.tiny import item_ids, tiny_bundle, tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import bundle
from twinspire.protos.bundle import (
    MANIFEST,
    OLDEST_VERSION,
    REQUIRED,
    SCHEMA_VERSION,
    IndexParameters,
    Manifest,
)
from twinspire.protos.errors import BundleDamaged, BundleError, BundleTooNew, BundleTooOld
from twinspire.protos.features import CategoryFeature, FeatureSpec, Schema
from twinspire.protos.toml_config import parse


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


def test_the_kind_of_an_index_is_stored_unless_it_is_hnsw_or_exact(folder: Path) -> None:
    index = bundle.read(folder).index
    assert (index.kind, replace(index, exact=True).kind) == ("hnsw", "exact")
    manifest = tiny_manifest(20, TinyTower())
    stored = json.loads(manifest.to_bytes())["index"]
    assert stored == {
        "space": "ip",
        "m": 8,
        "ef_construction": 64,
        "ef_search": 64,
        "seed": 0,
        "exact": False,
    }
    other = replace(manifest, index=IndexParameters(kind="remote", options={"collection": "items"}))
    stored = json.loads(other.to_bytes())["index"]
    assert (stored["kind"], stored["options"]) == ("remote", {"collection": "items"})
    assert parse(json.loads(other.to_bytes()), Manifest) == other
    assert bundle.LINKS in manifest.required_files()
    assert bundle.HNSWLIB in replace(manifest, schema_version=3).required_files()
    assert not {bundle.LINKS, bundle.HNSWLIB} & {*other.required_files()}


def test_one_altered_byte_of_any_file_is_refused_by_name(folder: Path) -> None:
    for path in files(folder):
        for position in altered(path, positions(path.stat().st_size)):
            assert f"/{path.name}: " in refusal(bundle.read, folder), f"byte {position}"
    bundle.read(folder)


def test_an_altered_number_of_the_manifest_is_refused(folder: Path) -> None:
    path = folder / MANIFEST
    signs = [n for n, byte in enumerate(path.read_bytes()) if byte in b"-.,:"]
    for position in altered(path, signs, ord("9")):  # other valid JSON: 1.3e-07 becomes infinite
        assert f"/{MANIFEST}: " in refusal(bundle.read_manifest, folder), f"byte {position}"
    bundle.read(folder)


def test_a_cut_longer_or_missing_file_is_refused_by_name(folder: Path) -> None:
    for path in files(folder):
        content = path.read_bytes()
        for changed in (b"", content[:-1], content + b"\n", None):
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(changed)
            with pytest.raises(BundleDamaged, match=f"/{path.name}: "):
                bundle.read(folder)
        path.write_bytes(content)
    bundle.read(folder)


@pytest.mark.parametrize(
    ("version", "error", "text"),
    [
        (SCHEMA_VERSION + 1, BundleTooNew, "schema version 5"),
        (OLDEST_VERSION - 1, BundleTooOld, "export it again"),
    ],
)
def test_a_manifest_of_another_version_is_refused(
    folder: Path, version: int, error: type[BundleError], text: str
) -> None:
    path = folder / MANIFEST
    content = path.read_bytes()
    path.write_text(json.dumps({**json.loads(content), "schema_version": version, "something_new": True}))
    with pytest.raises(error, match=text):
        bundle.read(folder)
    path.write_bytes(content)


TOO_DEEP = "not a bundle's manifest: .*nested more than"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *((text, "") for text in (b"", b"\xff", b"[]", b"{}", b'{"schema_version": 3}', b"1")),
        (DEEP, TOO_DEEP),
        (b'{"schema_version": 3, "dataset": ' + b'{"a": ' * 500 + b"1" + b"}" * 501, TOO_DEEP),
    ],
)
def test_other_content_than_a_manifest_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleDamaged, match=f"/{MANIFEST}: {reason}"):
        bundle.read(tmp_path)


def test_a_manifest_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(bundle.LARGEST_MANIFEST + 1)
    with pytest.raises(BundleDamaged, match=rf"/{MANIFEST}: 67,108,865 bytes, expected at most 67,108,864"):
        bundle.read_manifest(tmp_path)


def test_a_manifest_that_is_too_large_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LARGEST_MANIFEST", 1000)
    with pytest.raises(BundleDamaged, match=rf"{MANIFEST}: \d,\d+ bytes, expected at most 1,000"):
        tiny_bundle(tmp_path, items=20)
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_is_the_same_bundle(tmp_path: Path) -> None:
    first = tiny_bundle(tmp_path, items=20)
    written = (first / MANIFEST).stat().st_mtime_ns
    assert tiny_bundle(tmp_path, items=20) == first
    assert (first / MANIFEST).stat().st_mtime_ns == written
    assert tiny_bundle(tmp_path, items=20, report='{"better": true}') != first
    assert tiny_bundle(tmp_path, items=20, name="other") != first


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


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o022])
def test_a_file_that_is_written_whole_has_the_mode_that_open_gives_it(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with bundle.whole_file(tmp_path / "whole") as file:
            file.write(b"1")
            (draft,) = tmp_path.iterdir()
            assert stat.S_IMODE(draft.stat().st_mode) & mask == 0
        (tmp_path / "plain").write_bytes(b"1")
    finally:
        os.umask(before)
    found, expected = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("whole", "plain"))
    assert found == expected == 0o666 & ~mask


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside every bundle."""
    path = tmp_path / "secret"
    path.write_text("not for readers")
    return path


@pytest.mark.parametrize("name", ["{absolute}", "../secret", "reports/../../secret", "..\\secret", ".secret"])
def test_a_manifest_that_names_a_file_outside_is_refused_without_reading_it(
    folder: Path, tmp_path: Path, secret: Path, name: str
) -> None:
    name = name.format(absolute=secret)
    record = {"sha256": "0" * 64, "size": secret.stat().st_size}
    made = tampered(folder, tmp_path / "made", lambda table: table["files"].update({name: record}))
    text = refusal(bundle.read, made)
    assert "files: expected a plain relative file name, got" in text
    assert listed(secret)["sha256"] not in text


@pytest.mark.parametrize("name", ["secret", "reports/secret"])
def test_links_on_the_way_to_a_file_are_refused(
    folder: Path, tmp_path: Path, secret: Path, name: str
) -> None:
    made = tampered(folder, tmp_path / "made", lambda table: table["files"].update({name: listed(secret)}))
    if name == "secret":
        (made / name).symlink_to(secret)
    else:
        outside = (made / "reports").rename(tmp_path / "reports")
        (made / "reports").symlink_to(outside)
        (outside / "secret").write_bytes(secret.read_bytes())
    assert "expected a regular file inside the bundle" in refusal(bundle.read, made)
    linked = tmp_path / "link"
    linked.symlink_to(folder)  # of a user, who may put bundles elsewhere
    assert bundle.read(linked) == bundle.read(folder)


def test_special_files_are_refused_without_waiting(folder: Path, tmp_path: Path) -> None:
    made = tampered(folder, tmp_path / "made", lambda table: None)
    aside = (made / bundle.ITEMS).rename(tmp_path / "items")
    os.mkfifo(made / bundle.ITEMS)
    assert "items.json: a link, a folder or a special file" in refusal(bundle.read, made)
    (made / bundle.ITEMS).unlink()
    (made / bundle.ITEMS).mkdir()
    assert "items.json: a link, a folder or a special file" in refusal(bundle.read, made)
    (made / bundle.ITEMS).rmdir()
    aside.rename(made / bundle.ITEMS)
    (made / MANIFEST).rename(tmp_path / MANIFEST)
    (made / MANIFEST).symlink_to("/dev/zero")
    assert "manifest.json: a link, a folder or a special file" in refusal(bundle.read_manifest, made)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"index": {"ef_search": 0}}, "index.ef_search: expected 1 to "),
        ({"index": {"ef_search": float("nan")}}, "index.ef_search: expected an integer, got nan"),
        ({"index": {"ef_construction": 0}}, "index.ef_construction: expected 1 to "),
        ({"index": {"seed": -1}}, "index.seed: expected 0 to "),
        ({"count": 0}, "count: expected 1 to "),
        ({"dimension": 1 << 40}, "dimension: expected 1 to "),
        ({"score": {"bias": float("nan")}}, "not JSON compliant"),
        ({"interests": 1000}, "interests: expected 1 to "),
        ({"interests": 2, "score": {"kind": "sigmoid"}}, 'score: expected no "sigmoid" where a query has'),
        ({"interests": 2, "index": {"kind": "milvus"}}, "index: expected hnsw or exact where a query has"),
        ({"name": "x' or name != '"}, "name: expected 1 to 255 letters"),
        ({"run_id": "../../x"}, "run_id: expected 1 to 255 letters"),
        ({"files": {"items.json": {"sha256": "A" * 64, "size": 1}}}, "sha256: expected 64 lowercase"),
        ({"files": {"items.json": {"sha256": "a" * 64, "size": -1}}}, "size: expected 0 to "),
    ],
)
def test_values_out_of_range_are_refused_by_key(
    folder: Path, tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    def apply(table: dict[str, Any]) -> None:
        for key, value in change.items():
            table[key] = {**table[key], **value} if isinstance(value, dict) else value

    made = tampered(folder, tmp_path / "made", apply)
    assert expected in refusal(bundle.read_manifest, made)


def test_a_bundle_with_postings_has_no_items_on_another_server(tmp_path: Path) -> None:
    manifest = bundle.read(tiny_bundle(tmp_path, 20, is_hybrid=True))
    index = IndexParameters(kind="milvus")
    with pytest.raises(ValueError, match="hybrid: expected none with items on another server"):
        replace(manifest, index=index)
    assert replace(manifest, index=index, hybrid=None).is_remote


KILLED = """
import os, signal, sys
from pathlib import Path
from twinspire.protos import bundle
from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
def fill(folder):
    (folder / bundle.ITEMS).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
bundle.write(Path(sys.argv[1]), tiny_manifest(20, TinyTower()), fill)
"""


def test_the_draft_of_a_killed_writer_is_removed_by_the_next(tmp_path: Path) -> None:
    root, quiet = Path(__file__).parents[2], subprocess.DEVNULL
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, stderr=quiet)
    assert killed.returncode == -signal.SIGKILL
    assert len([*tmp_path.iterdir()]) == 2  # its draft and the lock
    found: list[set[str]] = []

    def fill(folder: Path) -> None:
        """Another writer comes meanwhile, and this one fails."""
        made = tiny_bundle(tmp_path, items=20)
        found.append({made.name, folder.name, f"{folder.name}.lock"})
        found.append({each.name for each in tmp_path.iterdir()})
        raise KeyError

    with pytest.raises(KeyError):
        bundle.write(tmp_path, tiny_manifest(20, TinyTower()), fill)
    assert found[0] == found[1]
    made = tiny_bundle(tmp_path, items=20)
    assert [each.name for each in tmp_path.iterdir()] == [made.name]


def test_another_unicode_version_gives_one_warning_with_both_versions(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    country: dict[str, FeatureSpec] = {"text": CategoryFeature("category", "country")}
    without_texts = Schema(country, country, {"query.text": ("de",), "item.text": ("de",)})
    own = unicodedata.unidata_version
    quiet: list[dict[str, Any]] = [
        {"unicode": own},
        {"unicode": ""},
        {"unicode": "3.2.0", "schema": without_texts},
    ]
    for n, changed in enumerate(quiet):
        bundle.read(reseal(folder, tmp_path / str(n), lambda _: None, **changed))
    assert not caplog.records
    other = reseal(folder, tmp_path / "other", lambda _: None, unicode="3.2.0")
    for _ in range(2):
        assert bundle.read(other).unicode == "3.2.0"
    (record,) = caplog.records
    said = f"{other.name}: its towers were trained with Unicode 3.2.0, and this Python has Unicode {own}. "
    assert record.getMessage().startswith(said)
