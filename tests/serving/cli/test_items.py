"""`items` on the command line: tables in four formats, interruption, and errors that name the row."""

import io
import json
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.serving.cataloguing import ROOT, CatalogueService, catalogue_service
from tests.helpers.waiting import wait_until
from twinspire.protos.errors import DataError, InvalidInput
from twinspire.serving.__main__ import main as service_main
from twinspire.serving.cli import client_commands
from twinspire.serving.client import Item, RetrievalClient
from twinspire.serving.client.__main__ import main as client_main
from twinspire.serving.client.item_upload import ItemFileColumns, Upload, upload
from twinspire.serving.client.rows import read_rows

ROWS = 6000  # of an upload that must not end before it is interrupted on a busy machine


@pytest.fixture(scope="module")
def service(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CatalogueService]:
    folder = tmp_path_factory.mktemp("items")
    with catalogue_service(plain, f"sqlite:///{folder}/items.db", folder / "service") as service:
        yield service


def run(
    service: CatalogueService, *arguments: str, main: Callable[[list[str]], int] = service_main
) -> "subprocess.CompletedProcess[str]":
    """As `python -m twinspire.serving items`, in this process: imports would take most of the time."""
    given = ["items", *arguments, "--address", service.address]
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        try:
            code = main(given)
        except SystemExit as ended:  # wrong arguments
            assert isinstance(ended.code, int), ended.code
            code = ended.code
    return subprocess.CompletedProcess(given, code, stdout.getvalue(), stderr.getvalue())


def document(result: "subprocess.CompletedProcess[str]") -> dict[str, object]:
    assert result.returncode == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


TABLES = {
    "items.csv": '\ufeffitem_id,text,name,more\r\nA1,"bavuti, kelimo",A one,x\r\nA2,"two\nlines",,y\r\n',
    "items.tsv": 'item_id\ttext\tname\tmore\nA1\tbavuti, kelimo\tA one\tx\nA2\t"two\nlines"\t\ty\n',
    "items.jsonl": '{"id": "A1", "text": "bavuti, kelimo", "name": "A one", "more": 1}\n\n'
    '{"id": "A2", "features": {"text": "two\\nlines"}, "fields": {}}\n',
    "items.parquet": "",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_each_format_become_the_same_items(
    service: CatalogueService, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        columns = {"item_id": ["A1", "A2"], "text": ["bavuti, kelimo", "two\nlines"], "name": ["A one", None]}
        pq.write_table(pa.table({**columns, "more": [1, 2]}), path)
    else:
        path.write_text(TABLES[name], encoding="utf-8")
    done = document(run(service, "upsert", str(path), "--json"))
    assert (done["rows"], done["written"], done["refused"]) == (2, 2, 0)
    assert done["ignored_columns"] == ["more"]
    found = document(run(service, "get", "A1", "A2", "A3", "--json"))["items"]
    assert isinstance(found, list)
    assert [(each["id"], each["features"], each["fields"], each["origin"]) for each in found] == [
        ("A1", {"text": "bavuti, kelimo"}, {"name": "A one"}, "live"),
        ("A2", {"text": "two\nlines"}, {}, "live"),
        ("A3", {}, {}, "unknown"),
    ]
    assert "features.text  bavuti, kelimo" in run(service, "get", "A1", main=client_main).stdout


@pytest.mark.exhaustive
def test_changes_are_lines_that_upsert_reads(service: CatalogueService, tmp_path: Path) -> None:
    table = tmp_path / "b.csv"
    table.write_text("id,text,name\nB1,bavuti,One\nB2,kelimo,Two\n")
    sequence = document(run(service, "upsert", str(table), "--json"))["sequence"]
    assert isinstance(sequence, int)
    changes = run(service, "changes", "--after", str(sequence - 2))
    assert changes.returncode == 0
    rows = [json.loads(line) for line in changes.stdout.splitlines()]
    assert [(each["id"], each["sequence"]) for each in rows] == [("B1", sequence - 1), ("B2", sequence)]
    again = tmp_path / "again.jsonl"
    again.write_text(changes.stdout)
    assert document(run(service, "upsert", str(again), "--mode", "update", "--json"))["written"] == 2
    assert document(run(service, "delete", "B1", "--json"))["written"] == 1
    assert document(run(service, "delete", "B2", "never", "--json"))["written"] == 2
    with service.client() as client:
        assert [each.origin for each in client.get(["B1", "B2"])] == ["deleted", "deleted"]


def test_refused_items_are_told_and_the_exit_code_is_1(service: CatalogueService, tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("id,text,expected_sequence\nC1,bavuti,\nitem-003,bavuti,\nC2,kelimo,77\n")
    refused = tmp_path / "refused.jsonl"
    refused.write_text("of another run\n")
    result = run(service, "upsert", str(table), "--mode", "insert", "--refused", str(refused))
    assert result.returncode == 1
    assert "2 of 3 items were refused, 1 were written; the first is 'item-003'" in result.stderr
    rows = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [(each["id"], each["refusal"]) for each in rows] == [("item-003", "exists"), ("C2", "conflict")]


FEATURES = '{"id": "x", "features": %s}\n'


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.csv", "id,text\nx,one\n,two\n", "a.csv: row 2: expected an id in column item_id or id"),
        ("a.csv", "id,text\nx,one\ny\n", "a.csv: row 2: expected 2 cells"),
        ("a.csv", "id,text,text\nx,one,two\n", "a.csv: two columns have the same name"),
        ("a.csv", "id,title\nx,one\ny,two\n", "a.csv: row 1: item.features: expected at least one"),
        ("a.csv", "id,text,expected_sequence\nx,one,soon\n", "row 1, column 'expected_sequence'"),
        ("a.jsonl", '{"id": "x", "text": ["one"]}\n', "a.jsonl: row 1: item.features.text: expected a text"),
        ("a.jsonl", '{"id": "x", "text": "one"}\n{"id"', "a.jsonl: row 2: "),
        ("a.jsonl", "[1]\n", "a.jsonl: row 1: expected a JSON object"),
        ("a.jsonl", '{"id": "x", "text": NaN}\n', "a.jsonl: row 1: NaN is no number of JSON"),
        ("a.jsonl", '{"id": ["x"], "text": "one"}\n', "row 1, column 'id': expected a string, got ['x']"),
        ("a.jsonl", '{"id": 1.0, "text": "one"}\n', "row 1, column 'id': expected a string, got 1.0"),
        ("a.jsonl", FEATURES % '{"text": {"en": "a"}}', "row 1, column 'features.text': expected a text"),
        ("a.jsonl", FEATURES % '{"text": ["a", null]}', "row 1, column 'features.text': expected a string"),
        ("a.jsonl", FEATURES % '{"text": 1e999}', "row 1: item.features.text: expected a finite number"),
        ("a.jsonl", '{"id": "x", "features": {"text": true, "y": 1}}\n', "item.features.y: unknown feature"),
        ("a.jsonl", '{"id": "x", "features": {"text": 7}}\n', "row 1: item.features.text: expected a text"),
        ("a.jsonl", '{"id": "x", "features": {"text": "a"}, "fields": "n"}\n', "'fields': expected an"),
        (
            "a.jsonl",
            '{"id": "x", "features": {"text": "one"}, "fields": {"name": {}}}\n',
            "row 1, column 'fields.name': expected a text, a number or",
        ),
        (
            "a.jsonl",
            '{"id": "x", "features": {}, "origin": "deleted", "sequence": 3}\n',
            "row 1, column 'origin': the item is deleted, so there is nothing to write",
        ),
        ("a.jsonl", '{"id": "x\\u0000", "text": "one"}\n', "row 1: item.id: expected no control characters"),
        ("a.xlsx", "", "expected a name that ends in one of .csv, .tsv, .jsonl, .ndjson, .parquet"),
        ("a.parquet", "no parquet", "a.parquet: "),
    ],
)
def test_a_fault_in_a_table_is_named_by_its_row(
    service: CatalogueService, tmp_path: Path, name: str, content: str, error: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    result = run(service, "upsert", str(path))
    assert result.returncode == 1
    assert error in result.stderr


def test_a_table_that_is_not_there_and_arguments_that_contradict(
    service: CatalogueService, tmp_path: Path
) -> None:
    missing = run(service, "upsert", str(tmp_path / "missing.csv"))
    assert (missing.returncode, "missing.csv: cannot be read" in missing.stderr) == (1, True)
    assert run(service, "delete").returncode == 2


def test_an_upload_that_was_interrupted_is_repeated_as_a_whole(
    service: CatalogueService, tmp_path: Path
) -> None:
    table, refused = tmp_path / "many.csv", tmp_path / "refused.jsonl"
    rows = [f"{'item' if n % 2 else 'M'}-{n:03d},bavuti {n}\n" for n in range(200)]  # items 1, 3 ... exist
    table.write_text("id,text\n" + "".join(rows))
    existing = [f"item-{n:03d}" for n in range(1, 200, 2)]

    def stop(rows: int) -> None:
        if rows == 50:
            raise KeyboardInterrupt

    def refused_ids() -> list[str]:
        return [json.loads(line)["id"] for line in refused.read_text().splitlines()]

    with service.client() as client:
        with pytest.raises(KeyboardInterrupt):
            upload(client, table, "insert", 10, stop, refused)
        assert refused_ids() == existing[:25]
        done = upload(client, table, "insert", 70, refused=refused)  # what is there is refused
        assert (done.rows, done.written, done.refused) == (200, 75, 125)
        assert {*existing} < {*refused_ids()} and len(refused_ids()) == 125
        done = upload(client, table, "upsert", refused=refused)
        assert (done.rows, done.written, done.refused, refused.read_text()) == (200, 200, 0, "")
        stored = client.get([f"M-{n:03d}" for n in range(0, 200, 2)])
    assert [each.item.features for each in stored] == [{"text": f"bavuti {n}"} for n in range(0, 200, 2)]
    assert sorted(tmp_path.iterdir()) == [table, refused]


@pytest.mark.exhaustive
def test_an_upload_ends_on_ctrl_c_and_says_what_to_do(service: CatalogueService, tmp_path: Path) -> None:
    table = tmp_path / "interrupted.csv"
    table.write_text("id,text\n" + "".join(f"I{n},bavuti {n}\n" for n in range(ROWS)))
    command = [sys.executable, "-m", "twinspire.serving", "items", "upsert", str(table), "--batch", "20"]
    command += ["--address", service.address]
    with (
        service.client() as client,
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process,
    ):
        wait_until(lambda: client.get(["I100"])[0].origin == "live")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "the same command sends all rows again" in said


def test_a_file_of_refused_items_that_cannot_be_written_is_told(
    service: CatalogueService, tmp_path: Path
) -> None:
    table = tmp_path / "f.csv"
    table.write_text("id,text\nF1,bavuti\n")
    result = run(service, "upsert", str(table), "--refused", str(tmp_path))
    assert (result.returncode, "expected a file in a folder" in result.stderr) == (2, True)
    result = run(service, "upsert", str(table), "--refused", str(tmp_path / "none" / "out"))
    assert (result.returncode, "out: cannot be written: No such file" in result.stderr) == (1, True)
    table.write_text("id,text\nitem-003,bavuti\n")
    with service.client() as client:
        with pytest.raises(DataError, match="/dev/full: cannot be written: No space left"):
            upload(client, table, "insert", refused=Path("/dev/full"))

        def broken(rows: int) -> None:
            raise BrokenPipeError

        with pytest.raises(BrokenPipeError):  # of another file
            upload(client, table, tick=broken, refused=tmp_path / "out")


def test_a_batch_is_sent_again_for_as_long_as_the_timeout_says(
    service: CatalogueService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "g.csv"
    table.write_text("id,text\nG1,bavuti\n")
    seconds: list[float] = []

    def noted(*given: Any) -> Upload:
        seconds.append(given[-1])
        return upload(*given)

    monkeypatch.setattr(client_commands, "upload", noted)
    for flags in ([], ["--timeout", "20"], ["--timeout", "90"]):
        assert run(service, "upsert", str(table), *flags).returncode == 0
    assert seconds == [60.0, 20.0, 90.0]


def test_cells_of_parquet_become_what_a_service_reads(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    moment = datetime(2026, 5, 4, 12, tzinfo=UTC)
    path = tmp_path / "cells.parquet"
    columns: dict[str, list[object]] = {
        "id": [1, 2],
        "expected_sequence": [7.0, None],
        "price": [math.nan, 2.5],
        "released": [moment, None],
        "seconds": [1.5e9, math.nan],
        "tags": [["a", "b"], None],
    }
    pq.write_table(pa.table(columns), path)
    kinds = {"price": "number", "released": "time", "seconds": "time", "tags": "strings"}
    manifest = {"schema": {"item": {}}, "filters": kinds}
    served: Any = SimpleNamespace(manifest=manifest, display_fields=("tags",))
    table = ItemFileColumns(path, served)
    items = [table.item(row, n) for n, row in read_rows(path)]
    assert items == [
        Item(
            "1",
            {"released": moment.isoformat(), "seconds": 1.5e9, "tags": ["a", "b"]},
            {"tags": "a, b"},
            expected_sequence=7,
        ),
        Item("2", {"price": 2.5}),
    ]


def test_expected_sequences_of_items_that_are_not_deleted_are_refused(service: CatalogueService) -> None:
    with service.client() as client, pytest.raises(InvalidInput, match="expected: 'b' is not among the ids"):
        client.delete(["a"], expected={"a": 0, "b": 3})


@pytest.mark.exhaustive
def test_an_upload_waits_for_a_service_that_is_started_again(plain: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.jsonl"
    rows = [{"id": f"W{n}", "text": f"kelimo {n}"} for n in range(2000)]
    table.write_text("\n".join(map(json.dumps, [*rows, {"id": "W0", "text": "twice"}])))
    with catalogue_service(plain, f"sqlite:///{tmp_path}/items.db", tmp_path / "service") as service:
        ticks: list[int] = []

        def again() -> None:
            wait_until(lambda: bool(ticks) and ticks[-1] > 200)
            service.stop(signal.SIGKILL)
            time.sleep(1.0)
            service.start()

        thread = threading.Thread(target=again)
        thread.start()
        with RetrievalClient(service.address, 10.0) as client:
            done = upload(client, table, "upsert", batch=50, tick=ticks.append)
        thread.join()
        assert (done.rows, done.written) == (2001, 2001)
        assert ticks == sorted(ticks)
        stored = service.stored()
    assert len(stored) == 2000
    assert stored["W0"].features == {"text": "twice"}
