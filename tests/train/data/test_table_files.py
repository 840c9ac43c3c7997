"""Files that are not regular, and cells that are too long, are refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from twinspire.protos.errors import ConfigError, DataError
from twinspire.train.config import read_experiment
from twinspire.train.data import table_files
from twinspire.train.data.table_files import MAX_CELL_LENGTH, identity_of, read_table

KINDS: dict[str, Callable[[Path], object]] = {
    "a named pipe (FIFO)": os.mkfifo,
    "a character device": lambda path: path.symlink_to("/dev/zero"),
    "a directory": Path.mkdir,
}
ENDINGS = ("csv", "tsv", "jsonl", "parquet")


def write_table(path: Path, titles: list[str]) -> Path:
    """A table of `item_id` and `title` in the format that its name says."""
    ids = [f"{n}" for n in range(len(titles))]
    if path.suffix == ".parquet":
        pl.DataFrame({"item_id": ids, "title": titles}).write_parquet(path)
    elif path.suffix == ".jsonl":
        rows = [{"item_id": n, "title": title} for n, title in zip(ids, titles, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [separator.join(row) for row in zip(["item_id", *ids], ["title", *titles], strict=True)]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "items.csv"
    KINDS[kind](path)
    for read in (lambda: read_table(path, ["item_id"]), lambda: identity_of([path])):
        with pytest.raises(DataError) as error:
            read()
        assert str(error.value) == f"{path}: cannot be read: expected a regular file, got {kind}"


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ["x"])
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    assert read_table(tmp_path / "b.csv", ["title"])["title"].to_list() == ["x"]


def test_only_regular_files_are_read_as_toml(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match="cannot be read: expected a regular file, got a named pipe"):
        read_experiment(tmp_path / "a.toml")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_cell_has_a_maximum_length(tmp_path: Path, ending: str) -> None:
    longest = "é" * MAX_CELL_LENGTH
    path = write_table(tmp_path / f"items.{ending}", ["x", longest, f"{longest}é"])
    with pytest.raises(DataError, match="row 3, column 'title': expected at most 1,048,576 characters"):
        read_table(path, ["item_id", "title"])
    assert read_table(path, ["item_id"]).height == 3  # only columns that are read count


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_string_in_a_list_has_a_maximum_length_too(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "MAX_CELL_LENGTH", 20)
    path = tmp_path / f"items.{ending}"
    frame = pl.DataFrame({"tags": [["a"], None, ["b", "c" * 21]]})
    frame.write_parquet(path) if ending == "parquet" else frame.write_ndjson(path)
    with pytest.raises(DataError, match="row 3, column 'tags': expected at most 20 characters"):
        read_table(path, ["tags"])


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl"])
def test_a_line_is_refused_before_it_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(table_files, "MAX_LINE_LENGTH", 1000)
    path = write_table(tmp_path / name, ["short", "x" * 2000])
    line = 2 if name.endswith("jsonl") else 3
    with pytest.raises(DataError, match=rf"line {line}: expected at most 1,000 characters, got more"):
        read_table(path, ("title",))
