"""Tables in partitions, in memory or in a file without a name."""

import gc
import os
from pathlib import Path

import polars as pl
import pytest

from tests.helpers.limited import files_limited_to
from twinspire.protos.errors import DataError
from twinspire.train import paths
from twinspire.train.data import partitions
from twinspire.train.data.partitions import Partitions, PartitionWriter

FRAMES = [
    pl.DataFrame(
        {
            "n": [0, 1],
            "s": ["a", None],
            "part": pl.Series(["test", "train"], dtype=pl.Enum(["test", "train"])),
        }
    ),
    pl.DataFrame(
        {"n": [], "s": [], "part": []},
        schema={"n": pl.Int64, "s": pl.String, "part": pl.Enum(["test", "train"])},
    ),
    pl.DataFrame(
        {
            "n": [2, 3, 4],
            "s": ["b", "c", "d"],
            "part": pl.Series(["test"] * 3, dtype=pl.Enum(["test", "train"])),
        }
    ),
]


@pytest.fixture(params=[0, 40, 1 << 20])
def bound(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that are kept in memory."""
    monkeypatch.setattr(partitions, "LARGE", request.param)
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    return int(request.param)


def written() -> Partitions:
    writer = PartitionWriter()
    for frame in FRAMES:
        writer.append(frame)
    return writer.finish()


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_partitions_are_read_as_they_were_written(bound: int) -> None:
    table = written()
    assert [frame.rows() for frame in table] == [frame.rows() for frame in FRAMES]
    assert (len(table), table.height, table.columns) == (3, 5, ["n", "s", "part"])
    assert table.schema == FRAMES[0].schema
    assert table.collect().equals(pl.concat(FRAMES))
    assert [frame.columns for frame in table.select("part", "^s$", "^absent$")] == [["part", "s"]] * 3
    assert Partitions.of(FRAMES[2]).collect().equals(FRAMES[2])


def test_a_function_of_partitions_gives_partitions(bound: int) -> None:
    doubled = written().map(lambda frame: frame.select(twice=pl.col("n") * 2))
    assert [frame["twice"].to_list() for frame in doubled] == [[0, 2], [], [4, 6, 8]]


def test_polars_reads_them_as_a_query(bound: int, tmp_path: Path) -> None:
    rows, whole = written().lazy(), pl.concat(FRAMES)
    assert rows.collect().equals(whole)
    assert (
        rows.filter(pl.col("n") > 0)
        .select("part")
        .collect()
        .equals(whole.filter(pl.col("n") > 0).select("part"))
    )
    assert rows.head(3).collect().equals(whole.head(3))
    rows.sink_parquet(tmp_path / "rows.parquet")
    assert pl.read_parquet(tmp_path / "rows.parquet").equals(whole)


def test_rows_are_distributed_in_their_order(bound: int) -> None:
    writer = PartitionWriter()
    for numbers in ([3, 1, 3], [], [0, 1, 3]):
        frame = pl.DataFrame({"number": pl.Series(numbers, dtype=pl.UInt32)})
        writer.distribute(frame.with_row_index("row"), "number")
    assert [frame["row"].to_list() for frame in writer.finish()] == [[0], [1, 1], [0, 2, 2]]


def test_no_rows_are_one_empty_partition() -> None:
    writer = PartitionWriter()
    writer.distribute(FRAMES[1].with_columns(number=pl.lit(0)), "number")
    assert writer.finish().collect().equals(FRAMES[1])


def test_a_large_table_is_one_file_that_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "LARGE", 0)
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    before = open_files()
    table = written()
    assert not [*tmp_path.iterdir()]
    assert open_files() == before + 1
    rows = table.lazy()
    del table
    assert rows.collect().height == 5
    del rows
    gc.collect()
    assert open_files() == before


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "LARGE", 0)
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    with files_limited_to(500), pytest.raises(DataError, match="data cannot be kept there for now: File too"):
        written()


def test_a_frame_is_read_whole_though_the_system_reads_less_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux reads at most 2 GiB at once."""
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(partitions, "LARGE", 0)
    table = Partitions.of(frame := pl.DataFrame({"n": range(1000)}))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: pread(file, min(size, 100), at))
    assert table.collect().equals(frame)
