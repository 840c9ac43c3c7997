"""Files that are not regular, and cells that are too long, are refused without using much memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.helpers.sources import source_context
from twinspire.protos.errors import ConfigError, DataError
from twinspire.serving.security.tokens import TokenTable
from twinspire.train.config import read_experiment
from twinspire.train.data import table_files
from twinspire.train.data.sources.files import FilesData
from twinspire.train.data.table_files import MAX_CELL_LENGTH, MAX_ROW_LENGTH, identity_of, read_table
from twinspire.train.paths import ROOT

KINDS: dict[str, Callable[[Path], object]] = {
    "a named pipe (FIFO)": os.mkfifo,
    "a character device": lambda path: path.symlink_to("/dev/zero"),
    "a directory": Path.mkdir,
}
ENDINGS = ("csv", "tsv", "jsonl", "parquet")
TOML = """
name = "tiny"
data = { kind = "files", items = "items.csv", pairs = "pairs.csv" }
query.text = { kind = "text", column = "query" }
item.text = { kind = "text", column = "title" }
tower = { kind = "bag" }
loss = { kind = "in_batch_softmax" }
"""


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
@pytest.mark.parametrize("ending", ENDINGS)
def test_only_regular_files_are_read(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"items.{ending}"
    KINDS[kind](path)
    for read in (lambda: read_table(path, ["item_id"]), lambda: identity_of([path])):
        with pytest.raises(DataError) as error:
            read()
        assert str(error.value) == f"{path}: cannot be read: expected a regular file, got {kind}"


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", ["x"])
    (tmp_path / "b.csv").symlink_to(tmp_path / "a.csv")
    assert read_table(tmp_path / "b.csv", ["title"])["title"].to_list() == ["x"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_read_as_toml(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.toml"
    KINDS[kind](path)
    with pytest.raises(ConfigError, match=f"cannot be read: expected a regular file, got {kind[:12]}"):
        read_experiment(path)
    from twinspire.protos import toml_config

    with pytest.raises(ConfigError, match="expected a regular file"):
        toml_config.read(path, TokenTable)


@pytest.mark.parametrize("name", ["items.csv", "pairs.csv"])
def test_a_command_refuses_a_named_pipe_for_a_table(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "items.csv").write_text("item_id,title\n1,a\n")
    (tmp_path / "pairs.csv").write_text("item_id,query\n1,a\n")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    command = [sys.executable, "-m", "twinspire.train", "data", "--config", str(tmp_path / "a.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"{name}: cannot be read: expected a regular file, got a named pipe (FIFO)" in done.stderr


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_cell_has_a_maximum_length(tmp_path: Path, ending: str) -> None:
    longest = "é" * MAX_CELL_LENGTH
    path = write_table(tmp_path / f"items.{ending}", ["x", longest])
    assert read_table(path, ["title"])["title"].to_list() == ["x", longest]
    write_table(path, ["x", longest, f"{longest}é"])
    with pytest.raises(DataError) as error:
        read_table(path, ["item_id", "title"])
    expected = "expected at most 1,048,576 characters, got more"
    assert str(error.value) == f"{path}: row 3, column 'title': {expected}"
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


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("quoted", [False, True])
def test_a_row_has_a_maximum_length(
    tmp_path: Path, ending: str, quoted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_files, "MAX_CELL_LENGTH", 100)
    monkeypatch.setattr(table_files, "MAX_ROW_LENGTH", 1000)
    long = f'"{"a" * 30},\n{"a" * 3000}"' if quoted and ending != "jsonl" else "a" * 3000
    path = write_table(tmp_path / f"items.{ending}", ["x", long, "y"])
    with pytest.raises(DataError, match="row 2: expected at most 1,000 characters in a row, got more"):
        read_table(path, ["item_id"])
    short = [f"c{n}" for n in range(40)]
    if ending == "jsonl":
        path.write_text(json.dumps(dict.fromkeys(short, "b" * 30)) + "\n")
    else:
        separator = "\t" if ending == "tsv" else ","
        path.write_text("\n".join([separator.join(short), separator.join(["b" * 30] * 40)]) + "\n")
    with pytest.raises(DataError, match="row 1: expected at most 1,000 characters in a row, got more"):
        read_table(path, ["c0"])


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_long_row_takes_little_memory(tmp_path: Path, ending: str) -> None:
    path = write_table(tmp_path / f"items.{ending}", ["x", "a" * (6 * MAX_ROW_LENGTH)])
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from twinspire.protos.errors import DataError\n"
        "from twinspire.train.data.table_files import read_table\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    read_table(Path(sys.argv[1]), ['item_id', 'title'])\n"
        "except DataError as error:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    peak, _, told = done.stdout.partition(" ")
    assert told.strip().endswith("row 2: expected at most 16,777,216 characters in a row, got more")
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(peak) * unit < 256 << 20  # the file has 96 MiB


def test_the_source_of_files_names_the_pipe(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    experiment = read_experiment(tmp_path / "a.toml")
    os.mkfifo(tmp_path / "items.csv")
    assert isinstance(experiment.data, FilesData)
    source = experiment.data.open(source_context(tmp_path, experiment.query, experiment.item))
    for read in (source.identity, source.read):
        with pytest.raises(DataError, match=r"items\.csv: cannot be read: expected a regular file"):
            read()
