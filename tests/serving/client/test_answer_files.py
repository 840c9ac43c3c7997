"""Files of answers: JSON lines, and Parquet, of which pandas and polars read lists of hits."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.helpers.scores import difference
from tests.serving.cli.test_commands import Capture, failure
from twinspire.protos.nearest.scores import PARTS
from twinspire.serving.client import RetrievalClient, answer_files
from twinspire.serving.client.batch import search_file
from twinspire.serving.server import RetrievalServer


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "queries.txt"
    path.write_text("bavuti xelike\n\nkemolira\n\U0001f600\n")
    return path


def without_times(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in each.items() if not key.endswith("_us") and key != "request_id"}
        for each in documents
    ]


def test_parquet_holds_what_json_lines_hold(
    client: RetrievalClient, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_files, "ROWS", 2)  # so that there is more than one group of rows
    lines, table = tmp_path / "answers.jsonl", tmp_path / "answers.parquet"
    assert search_file(client, source, lines, k=3) == 3
    assert search_file(client, source, table, k=3) == 3
    expected = [json.loads(line) for line in lines.read_text().splitlines()]
    rows = pq.read_table(table).to_pylist()
    for row in rows:
        assert row.pop("sequence") is None  # the service takes no writes
        assert row.pop("fusion") is None  # and has no lexical index
        assert row.pop("explored") is row.pop("propensities") is None  # and explores none
        for hit in row["hits"]:
            assert [hit.pop(name) for name in PARTS] == [None] * 3
            hit["fields"] = dict(hit["fields"])
    for row, line in zip(rows, expected, strict=True):  # two searches, maybe in batches of different sizes
        found, own = row.pop("hits"), line.pop("hits")
        expected_hits, hits = ([(hit["id"], hit["score"]) for hit in each] for each in (own, found))
        assert difference(expected_hits, hits) == ""
        assert [hit["rank"] for hit in found] == [hit["rank"] for hit in own] == [1, 2, 3]
        assert all(hit.keys() == found[0].keys() for hit in (*found, *own))
        fields = {hit["id"]: hit["fields"] for hit in own}
        assert all(hit["fields"] == fields.get(hit["id"], hit["fields"]) for hit in found)
    assert without_times(rows) == without_times(expected)
    assert pq.ParquetFile(table).num_row_groups == 2


def test_an_empty_table_has_its_columns(client: RetrievalClient, source: Path, tmp_path: Path) -> None:
    source.write_text("\n")
    search_file(client, source, tmp_path / "answers.parquet")
    table = pq.read_table(tmp_path / "answers.parquet")
    assert table.num_rows == 0
    assert table.column_names[:3] == ["line", "hits", "basis"]


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_sent_or_shown(
    capsys: Capture, server: RetrievalServer, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, output: Path) -> str:
        said = failure(capsys, "batch", str(source), "--output", str(output), "--address", server.address)
        assert said.count("\n") == 1  # and so no bar
        return said

    answers = tmp_path / "answers.parquet"
    assert refused(tmp_path / "none.txt", answers) == (
        f"error: {tmp_path / 'none.txt'}: cannot be read: No such file or directory\n"
    )
    assert "cannot hold lists of hits" in refused(source, tmp_path / "answers.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow; install it with: pip install pyarrow" in refused(source, answers)
    assert sorted(tmp_path.iterdir()) == [source]
