"""Encoding into a file: a killed and resumed process gives the same file, and stale windows are not used."""

import dataclasses
import fcntl
import io
import json
import os
import signal
import threading
import tracemalloc
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.export.encoding.test_windows import documents, write_table
from tests.helpers.item_tower import tower_at
from tests.helpers.stdlib import PLAIN as EXPERIMENT
from tests.helpers.stdlib import write_sections
from tests.helpers.tiny import tiny_bundle
from tests.helpers.tiny_towers import DIMENSION, PLAIN, TinyTower, write_tower
from tests.helpers.waiting import wait_until
from tests.helpers.warm import WarmPython
from twinspire.export.arguments import path_with
from twinspire.export.encoding import encoding
from twinspire.export.encoding.command import encode, show_encoded
from twinspire.export.encoding.encoding import ItemTower, encode_all, encode_into, encode_once
from twinspire.export.encoding.records import WINDOW, ColumnRecords, TableRecords
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged, DataError, Unavailable
from twinspire.protos.features import Arrays, IdFeature, TextFeature
from twinspire.train.config import read_experiment

COUNT = 2 * WINDOW + 1000

# Encodes a table, and is killed outright in the middle of the second window: at batch 300 of 256 a window.
KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from twinspire.export.encoding.encoding import encode_into
from twinspire.export.encoding.records import TableRecords
from tests.helpers.item_tower import tower_at

table, tower, output = map(Path, sys.argv[1:])
real, batches = tower_at(tower), 0

def until_killed(arrays):
    global batches
    batches += 1
    if batches == 300:
        os.kill(os.getpid(), signal.SIGKILL)
    return real.encode(arrays)

records = TableRecords(table, real.inputs.features)
encode_into(output, replace(real, encode=until_killed), records)
"""


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> ItemTower:
    path = tmp_path_factory.mktemp("tower") / "item_tower.onnx"
    write_tower(path, TinyTower())
    return tower_at(path)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return documents(COUNT)


@pytest.fixture(scope="module")
def records(texts: list[str]) -> ColumnRecords:
    return ColumnRecords({"text": texts})


@pytest.fixture(scope="module")
def whole(tower: ItemTower, records: ColumnRecords, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the file that an undisturbed run gives."""
    path = tmp_path_factory.mktemp("whole") / "whole.npy"
    encode_into(path, tower, records)
    return path.read_bytes()


def said(output: IO[str]) -> str:
    assert isinstance(output, io.StringIO)
    return " ".join(output.getvalue().split())


def begun(output: Path, tower: ItemTower, records: ColumnRecords, windows: int = 1) -> None:
    """Encode some windows, then be interrupted."""
    batches = 0

    def interrupted(arrays: Arrays) -> Any:
        nonlocal batches
        batches += 1
        if batches > windows * WINDOW // 64 + 10:
            raise KeyboardInterrupt
        return tower.encode(arrays)

    with pytest.raises(KeyboardInterrupt, match=f"{windows * WINDOW:,} of {COUNT:,} are kept"):
        encode_into(output, dataclasses.replace(tower, encode=interrupted), records)
    assert not output.exists()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_has_the_vectors_of_encoding_in_memory(
    tower: ItemTower, records: ColumnRecords, whole: bytes, tmp_path: Path
) -> None:
    vectors = encode_all(tower.encode, tower.inputs, records.values, "items")
    np.save(tmp_path / "saved.npy", vectors)
    assert (tmp_path / "saved.npy").read_bytes() == whole


@pytest.mark.exhaustive
def test_a_killed_process_is_resumed(
    tower: ItemTower, texts: list[str], whole: bytes, tmp_path: Path
) -> None:
    table, output = tmp_path / "items.parquet", tmp_path / "vectors.npy"
    write_table(pl.DataFrame({"text": texts}), table)
    killed = WarmPython("-c", KILLED, *map(str, (table, tower.file, output)))
    _, said = killed.communicate(timeout=200)
    assert killed.returncode == -signal.SIGKILL, said
    assert not output.exists()
    assert json.loads((tmp_path / "vectors.npy.journal").read_bytes())["windows"] == 1
    streamed = encode_into(output, tower, TableRecords(table, PLAIN))
    assert streamed.resumed_at == WINDOW
    assert output.read_bytes() == whole
    assert isinstance(streamed.vectors, np.memmap)
    assert not {"vectors.npy.part", "vectors.npy.journal"} & names(tmp_path)


def test_the_same_records_and_tower_are_encoded_once(
    tower: ItemTower, records: ColumnRecords, whole: bytes, kept: Path
) -> None:
    def unwanted(arrays: Arrays) -> Any:
        raise AssertionError("encoded again")

    first = encode_once("shop", tower, records)
    again = encode_once("shop", dataclasses.replace(tower, encode=unwanted), records)
    assert first.path == again.path
    assert (first.resumed_at, again.resumed_at) == (0, COUNT)
    assert again.path.read_bytes() == whole
    np.testing.assert_array_equal(again.vectors, first.vectors)
    other = encode_once("shop", tower, ColumnRecords({"text": ["another"]}))
    assert other.path != first.path
    assert len(other.vectors) == 1


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which `encode_once` keeps vectors."""
    monkeypatch.setattr(encoding, "ENCODED", tmp_path / "kept")
    return tmp_path / "kept"


def test_of_two_that_encode_the_same_at_once_the_second_waits_for_the_first(
    tower: ItemTower, kept: Path, progress: io.StringIO
) -> None:
    encoded, may_end = 0, threading.Event()

    def waiting(arrays: Arrays) -> Any:
        nonlocal encoded
        encoded += 1
        assert may_end.wait(60)
        return tower.encode(arrays)

    own, few = dataclasses.replace(tower, encode=waiting), ColumnRecords({"text": ["a", "b"]})
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(encode_once, "shop", own, few) for _ in range(2)]
        wait_until(lambda: "is encoding items; waiting for it" in progress.getvalue())
        may_end.set()
        first, second = (each.result(60) for each in both)
    assert encoded == 1
    np.testing.assert_array_equal(first.vectors, second.vectors)


def test_the_files_of_an_experiment_that_were_used_last_are_kept(
    tower: ItemTower, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "KEPT", 2)
    encoded = 0

    def counted(arrays: Arrays) -> Any:
        nonlocal encoded
        encoded += 1
        return tower.encode(arrays)

    own = dataclasses.replace(tower, encode=counted)
    first, second, third = (ColumnRecords({"text": [text]}) for text in ("a", "b", "c"))
    for records in (first, second, first, third, first):
        encode_once("shop", own, records)
    assert encoded == 3
    encode_once("other", own, second)
    assert encoded == 4
    encode_once("shop", own, second)  # was used longest ago when the third came
    assert encoded == 5
    assert {name: len([*(kept / name).glob("*/")]) for name in ("shop", "other")} == {"shop": 2, "other": 1}


@pytest.mark.parametrize("other", ["tower", "items"])
def test_a_journal_of_other_content_is_not_used(
    other: str, tower: ItemTower, texts: list[str], tmp_path: Path, progress: io.StringIO
) -> None:
    output = tmp_path / "vectors.npy"
    before = {"tower": tower, "records": ColumnRecords({"text": texts})}
    if other == "tower":
        write_tower(tmp_path / "other.onnx", TinyTower(unit=False))
        before["tower"] = tower_at(tmp_path / "other.onnx")
    else:
        before["records"] = ColumnRecords({"text": [*texts[:-1], "another"]})
    begun(output, **before)  # type: ignore[arg-type]
    streamed = encode_into(output, tower, ColumnRecords({"text": texts}))
    assert f"vectors.npy.journal: was begun with other {other}; starting over" in said(progress)
    assert streamed.resumed_at == 0
    expected = encode_all(tower.encode, tower.inputs, {"text": texts}, "items")
    np.testing.assert_array_equal(streamed.vectors, expected)


@pytest.mark.parametrize("harm", ["cut", "longer", "journal torn"])
def test_an_incomplete_window_is_encoded_again(
    harm: str, tower: ItemTower, records: ColumnRecords, whole: bytes, tmp_path: Path
) -> None:
    output, part, journal = (tmp_path / f"vectors.npy{end}" for end in ("", ".part", ".journal"))
    begun(output, tower, records, windows=2)
    if harm == "cut":
        os.truncate(part, part.stat().st_size - 1)
    elif harm == "longer":  # written, but not told of when the process died
        part.write_bytes(part.read_bytes() + b"\x01" * 1000)
    else:
        journal.write_bytes(journal.read_bytes()[:-7])
    streamed = encode_into(output, tower, records)
    windows = {"cut": 1, "longer": 2}.get(harm, 0)
    assert streamed.resumed_at == windows * WINDOW
    assert output.read_bytes() == whole


@pytest.mark.exhaustive
def test_memory_does_not_grow_with_the_catalogue(tower: ItemTower, tmp_path: Path) -> None:
    def peak(windows: int) -> int:
        path = tmp_path / f"{windows}.csv"
        write_table(pl.DataFrame({"text": documents(windows * WINDOW)}), path)
        tracemalloc.start()
        try:
            encode_into(tmp_path / f"{windows}.npy", tower, TableRecords(path, PLAIN))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(6) < 1.2 * peak(2)


def test_an_empty_catalogue_is_an_empty_file(tower: ItemTower, tmp_path: Path) -> None:
    streamed = encode_into(tmp_path / "vectors.npy", tower, ColumnRecords({"text": []}))
    assert streamed.vectors.shape == (0, DIMENSION)
    assert np.load(tmp_path / "vectors.npy").dtype == np.float32
    assert (streamed.resumed_at, streamed.items_per_s) == (0, 0.0)
    (tmp_path / "empty.csv").write_text("text\n")
    with pytest.raises(DataError, match=r"empty\.csv: expected at least one row"):
        TableRecords(tmp_path / "empty.csv", PLAIN)


def test_only_one_process_writes(tower: ItemTower, records: ColumnRecords, tmp_path: Path) -> None:
    with (tmp_path / "vectors.npy.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match=r"vectors\.npy\.part: another process is writing it"):
            encode_into(tmp_path / "vectors.npy", tower, records)


def test_a_tower_of_another_dimension_is_refused(
    tower: ItemTower, records: ColumnRecords, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(tower, dimension=DIMENSION + 1)
    with pytest.raises(BundleDamaged, match=f"dimension {DIMENSION}, expected {DIMENSION + 1}"):
        encode_into(tmp_path / "vectors.npy", wrong, records)


def test_a_path_that_cannot_be_written_is_named(
    tower: ItemTower, records: ColumnRecords, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/vectors\.npy: cannot be written"):
        encode_into(tmp_path / "file" / "vectors.npy", tower, records)


def test_a_file_that_changes_during_encoding_is_refused(tower: ItemTower, tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("text\none\ntwo\n")
    records, before = TableRecords(path, PLAIN), path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the file system's clock may tick every 4 ms
        path.write_text("text\none\nsix\n")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match=r"items\.csv: changed while it was read"):
        encode_into(tmp_path / "vectors.npy", tower, records)
    assert not (tmp_path / "vectors.npy").exists()
    with pytest.raises(DataError, match=r"gone\.csv: there is no such file"):
        TableRecords(tmp_path / "gone.csv", PLAIN)


def test_the_command_encodes_a_table(tmp_path: Path, console: Console) -> None:
    folder = tiny_bundle(tmp_path / "bundles")
    data = {"kind": "files", "items": "none.csv", "pairs": "none.csv"}
    config = write_sections(tmp_path / "tiny.toml", "tiny", {"data": data, **EXPERIMENT}, {})
    items = json.loads((folder / bundle.ITEMS).read_bytes())
    pl.DataFrame({"text": items["fields"]["name"]}).write_csv(tmp_path / "items.tsv", separator="\t")
    output = tmp_path / "new" / "vectors.npy"
    found = encode(
        read_experiment(config),
        Namespace(config=config, bundle=folder, items=tmp_path / "items.tsv", output=output),
    )
    np.testing.assert_allclose(np.load(output), np.load(folder / bundle.VECTORS), atol=1e-6)
    assert (found["items"], found["dimension"], found["resumed_at"]) == (300, DIMENSION, 0)
    assert found["output"] == str(output)
    assert found["bundle_version"] == bundle.read_manifest(folder).bundle_version
    assert found["items_per_s"] > 0
    assert 10 < found["peak_rss_mib"] < 100_000
    show_encoded(found | {"resumed_at": 16384, "items_per_s": 1234.5, "peak_rss_mib": 512.4}, console)
    assert f"300 vectors of dimension {DIMENSION}: {output}" in said(console.file)
    assert "1,234 items/s, resumed at 16,384; peak memory 512 MiB" in said(console.file)
    with pytest.raises(Exception, match=r"expected a name that ends in \.npy, got 'items\.csv'"):
        path_with(".npy", "items.csv")


def test_the_command_reads_a_table_as_the_experiment_does(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundles")
    data = {"kind": "files", "items": "old/items.dat", "pairs": "none.csv", "layouts": 0}
    inline = tmp_path / "tiny.toml"
    written = write_sections(inline, "tiny", {"data": data, **EXPERIMENT}, {}).read_text()
    inline.write_text(written.replace("layouts = 0", 'layouts."old/items.dat".columns = ["key", "text"]'))
    names = json.loads((folder / bundle.ITEMS).read_bytes())["fields"]["name"]
    table, output = tmp_path / "new.dat", tmp_path / "vectors.npy"
    table.write_text("".join(f"{n}::{name}\n" for n, name in enumerate(names)))
    found = encode(
        read_experiment(inline), Namespace(config=inline, bundle=folder, items=table, output=output)
    )
    assert found["items"] == 300
    np.testing.assert_allclose(np.load(output), np.load(folder / bundle.VECTORS), atol=1e-6)


def test_a_table_may_lack_texts_where_the_tower_reads_ids(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\na,one\nb,\n")
    text = TextFeature("text", "title")
    (both,) = TableRecords(path, {"id": IdFeature("id"), "text": text}).slices(10)
    assert both["text"] == ["one", ""]
    with pytest.raises(DataError, match=r"items\.csv: row 2, column 'title': expected text, got null"):
        list(TableRecords(path, {"text": text}).slices(10))
