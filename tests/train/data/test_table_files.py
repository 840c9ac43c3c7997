"""Files that are not regular, and cells that are too long, are refused."""

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from twinspire.protos.errors import ConfigError, DataError
from twinspire.train.config import read_experiment
from twinspire.train.data import table_files
from twinspire.train.data.table_files import MAX_CELL_LENGTH, identity_of, read_slices, read_table

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


def write_folder(path: Path, files: dict[str, list[int]]) -> Path:
    """A folder of Parquet files with the given values of a column `n`."""
    for name, values in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"n": values}, schema={"n": pl.Int64}).write_parquet(path / name)
    return path


def test_a_folder_of_parquet_files_is_one_table_with_the_columns_that_its_folders_name(
    tmp_path: Path,
) -> None:
    files = {
        "day=02/hour=7/a.parquet": [5, 6],
        "day=01/hour=%2B8/b.parquet": [3, 4],
        "day=01/hour=%2B8/a.parquet": [0, 1, 2],
        "day=01/hour=9/none.parquet": [],
        "day=__HIVE_DEFAULT_PARTITION__/hour=9/a.parquet": [7],
        "_delta_log/a.parquet": [8],
        "day=02/.hidden.parquet": [9],
    }
    folder = write_folder(tmp_path / "events", files)
    (folder / "_SUCCESS").touch()
    read = read_table(folder, ["hour", "n", "day"])
    days = [*["01"] * 5, *["02"] * 2, None]
    assert read["n"].to_list() == list(range(8))
    assert read["day"].to_list() == days
    assert read["hour"].to_list() == [*["+8"] * 5, *["7"] * 2, "9"]
    for size in (1, 2, 3, 5, 8, 100):
        for first in range(9):
            slices = list(read_slices(folder, ["n", "day"], size, first))
            assert [each.height for each in slices] == [
                min(size, 8 - at) for at in range(first, 8, size)
            ]  # all but the last are full
            assert [row for each in slices for row in each.rows()] == list(zip(range(8), days, strict=True))[
                first:
            ]


def test_a_folder_is_read_with_links_upper_case_endings_and_columns_that_begin_with_an_underscore(
    tmp_path: Path,
) -> None:
    folder = write_folder(tmp_path / "events", {"_type=a/a.PARQUET": [1], "b.Parquet": [2]})
    write_folder(tmp_path / "elsewhere", {"c.parquet": [3], "day=1/d.parquet": [4]})
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert read_table(folder, ["n"])["n"].to_list() == [1, 2, 3, 4]
    known = identity_of([folder])
    write_folder(tmp_path / "elsewhere", {"c.parquet": [5]})
    assert identity_of([folder]) != known
    (folder / "itself").symlink_to(folder)
    for read in (lambda: read_table(folder, ["n"]), lambda: identity_of([folder])):
        with pytest.raises(DataError, match=r"events/itself: expected each folder once, got .*events$"):
            read()
    (folder / "itself").unlink()
    (folder / "again.parquet").symlink_to(folder / "b.Parquet")
    for read in (lambda: read_table(folder, ["n"]), lambda: identity_of([folder])):
        with pytest.raises(DataError, match=r"b\.Parquet: expected each file once, got .*again\.parquet$"):
            read()


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pl.Series([7]), pl.Series(["07"])),
        (pl.Series([7]), pl.Series([True])),
        (pl.Series([7]), pl.Series([datetime(2026, 1, 1)])),
        (pl.Series([7]), pl.Series([7.5])),
        (pl.Series([[7]]), pl.Series([["7"]])),
    ],
)
def test_files_of_a_folder_with_other_types_are_refused(
    first: pl.Series, second: pl.Series, size: int, tmp_path: Path
) -> None:
    for name, values in (("a", first), ("b", second)):
        pl.DataFrame({"n": values}).write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: column 'n': expected .* as in the files before, got "):
        list(read_slices(tmp_path, ["n"], size))


@pytest.mark.parametrize("size", [1, 2, 100])
def test_integers_of_any_width_and_nulls_are_one_type_in_a_folder(size: int, tmp_path: Path) -> None:
    parts = [pl.Series([None]), pl.Series([1], dtype=pl.Int8), pl.Series([1 << 40]), pl.Series([None])]
    for n, values in enumerate(parts):
        pl.DataFrame({"n": values}).write_parquet(tmp_path / f"{n}.parquet")
    slices = list(read_slices(tmp_path, ["n"], size))
    assert [value for each in slices for value in each["n"]] == [None, 1, 1 << 40, None]
    assert {each["n"].dtype for each in slices} == {pl.Int64}


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pl.Series([[]]), pl.Series([["a"]])),
        (pl.Series([1.5], dtype=pl.Float32), pl.Series([2.5])),
        (pl.Series(["a"], dtype=pl.Categorical), pl.Series(["b"])),
        (pl.Series([datetime(2026, 1, 1)], dtype=pl.Datetime("ns")), pl.Series([datetime(2026, 1, 2)])),
        (pl.Series([(1 << 63) + 1], dtype=pl.UInt64), pl.Series([-1])),
        (pl.Series([], dtype=pl.Boolean), pl.Series(["a"])),
    ],
)
def test_types_of_one_kind_keep_their_values_in_a_folder(
    first: pl.Series, second: pl.Series, size: int, tmp_path: Path
) -> None:
    for name, values in (("a", first), ("b", second)):
        pl.DataFrame({"n": values}).write_parquet(tmp_path / f"{name}.parquet")
    slices = list(read_slices(tmp_path, ["n"], size))
    assert [value for each in slices for value in each["n"].to_list()] == [
        *first.to_list(),
        *second.to_list(),
    ]
    assert len({each["n"].dtype for each in slices}) == 1


def test_a_type_that_the_name_of_a_folder_gives_is_told_as_such(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"a.parquet": [1], "n=2/a.parquet": [2]})
    with pytest.raises(DataError, match=r"expected Int64 .*, got String of the name of its folder"):
        read_table(folder, ["n"])


def test_the_identity_of_a_folder_depends_on_its_files_and_on_their_names(tmp_path: Path) -> None:
    known = identity_of([write_folder(tmp_path / "a", {"day=1/a.parquet": [1], "day=2/a.parquet": [2]})])
    same = write_folder(tmp_path / "b", {"day=1/a.parquet": [1], "day=2/a.parquet": [2], "_x/a.parquet": [3]})
    renamed = write_folder(tmp_path / "c", {"day=1/a.parquet": [1], "day=3/a.parquet": [2]})
    changed = write_folder(tmp_path / "d", {"day=1/a.parquet": [1], "day=2/a.parquet": [3]})
    assert identity_of([same]) == known
    assert len({known, identity_of([renamed]), identity_of([changed])}) == 3


def test_a_fault_in_a_folder_of_parquet_files_names_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "events", {"day=1/a.parquet": [1], "b.parquet": [2]})
    with pytest.raises(DataError, match=r"events/b.parquet: column 'day' is missing; columns present: n"):
        read_table(folder, ["n", "day"])
    (tmp_path / "empty").mkdir()
    for read in (lambda: read_table(tmp_path / "empty", ["n"]), lambda: identity_of([tmp_path / "empty"])):
        with pytest.raises(
            DataError, match=r"empty: expected a folder with files that end in \.parquet, found none"
        ):
            read()
    damaged = folder / "day=1/a.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"events/day=1/a\.parquet: not a readable Parquet file: "):
        read_table(folder, ["n"])
    os.mkfifo(folder / "c.parquet")
    with pytest.raises(DataError, match=r"events: cannot be read: expected a regular file, got a named pipe"):
        read_table(folder, ["n"])
