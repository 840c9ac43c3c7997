"""A data set is built once, atomically, and built again only when one of its inputs has changed."""

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.helpers.limited import files_limited_to
from twinspire.protos.errors import DataError
from twinspire.protos.features import TextFeature
from twinspire.train.config import Experiment
from twinspire.train.config.data import SplitConfig
from twinspire.train.config.losses import InBatchSoftmax
from twinspire.train.config.towers import BagTower
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data import dataset
from twinspire.train.data.dataset import Dataset, dense_ranks, prepare
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import Tables, collapse_spaces, contains_query, sample_groups, without_query
from twinspire.train.data.sources import files, pydocs
from twinspire.train.data.sources.files import FilesData
from twinspire.train.data.sources.pydocs import PydocsData
from twinspire.train.data.splits.parts import PART
from twinspire.train.data.training_data import training_data_of

QUERY = TextFeature(kind="text", column="query")
TITLE = TextFeature(kind="text", column="title", catalogue_column="full")
ITEMS = "".join(f"{n:03},title of {n},full title of {n},shelf {n % 7}\n" for n in range(100))
PAIRS = "".join(f"query {n},{n % 100:03},{1 if n % 50 else 0}\n" for n in range(400))

DATA = FilesData("files", "items.csv", "pairs.csv", display=("shelf",), label="liked")
EXPERIMENT = Experiment(
    name="books",
    data=DATA,
    query={"text": QUERY},
    item={"text": TITLE},
    tower=BagTower("bag"),
    loss=InBatchSoftmax("in_batch_softmax"),
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text("item_id,title,full,shelf\n" + ITEMS)
    (tmp_path / "pairs.csv").write_text("query,item_id,liked\n" + PAIRS)
    return tmp_path


@pytest.fixture
def made(base: Path) -> Callable[..., Dataset]:
    def make(experiment: Experiment = EXPERIMENT, refresh: bool = False) -> Dataset:
        console = Console(file=io.StringIO())
        return prepare(experiment, base, base / "cache", refresh=refresh, console=console)

    return make


def test_a_data_set_is_two_tables_and_a_report(made: Callable[..., Dataset], base: Path) -> None:
    data = made()
    assert data.folder.parent == base / "cache"
    assert data.folder.name == data.report["fingerprint"][:12]
    assert data.items.columns == ["item_id", "title", "full", "shelf"]
    assert data.pairs.columns == ["query", "item_row", "weight", "group", "label", "part"]
    parts = {part: data.part(part).height for part in ("train", "validation", "test")}
    assert data.report["parts"] == parts
    assert sum(parts.values()) == data.pairs.height == data.report["pairs"] == 400
    assert (data.pairs["label"] == 0).sum() == 8
    assert data.report["dropped"] == {}
    assert data.report["evaluated_text"] == ["title"]
    assert data.report["served_text"] == ["full"]
    assert data.report["display"] == ["shelf"]
    assert data.split_hash == data.report["split_hash"]
    assert json.loads((data.folder / "dataset.json").read_text()) == data.report


def test_pairs_whose_query_is_held_out_are_left_out_and_counted(base: Path) -> None:
    forms = ("query {},{:03}", "Query {}.,{:03}", "{}: query,{:03}")
    pairs = [forms[n % 3].format(n * n % 211, n % 100) for n in range(400)]
    (base / "pairs.csv").write_text("query,item_id\n" + "\n".join(pairs) + "\n")
    console = Console(file=io.StringIO())
    experiment = replace(EXPERIMENT, data=FilesData("files", "items.csv", "pairs.csv"))
    data = prepare(experiment, base, base / "cache", console=console)
    numbered = data.pairs.with_columns(number=pl.col("query").str.extract(r"(\d+)"))
    assert numbered.group_by("number").agg(pl.col("part").n_unique())["part"].max() == 1
    reasons = {part: f"{part} pair with the query of a pair held out" for part in ("train", "validation")}
    left_out = {part: data.report["dropped"][reason] for part, reason in reasons.items()}
    assert sum(data.report["dropped"].values()) == 400 - data.pairs.height
    share = left_out["train"] / (left_out["train"] + data.part("train").height)
    assert share > dataset.WARN_LEFT_OUT_ABOVE
    warning = f"warning: {share:.0%} of the training pairs are left out"
    assert warning in console.file.getvalue()  # type: ignore[attr-defined]
    loaded = training_data_of(data, experiment.query, experiment.item)
    for part in ("validation", "test"):
        queries, relevant = loaded.parts[part].by_query()
        for query, items in zip(queries, relevant, strict=True):
            number = "".join(filter(str.isdigit, loaded.queries["text"][query]))
            assert items.tolist() == sorted({n % 100 for n in range(400) if n * n % 211 == int(number)})


def test_it_is_built_once_whatever_its_name_and_the_epochs_are(
    made: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made()
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_write", None)
        second = made()
        longer = made(replace(EXPERIMENT, training=TrainingConfig(epochs=99)))
        renamed = made(replace(EXPERIMENT, name="novels"))
    assert second.report == longer.report == first.report
    assert renamed.report == {**first.report, "name": "novels"}
    for each in (second, renamed):
        assert each.items.equals(first.items)
        assert each.pairs.equals(first.pairs)
    assert [path.name for path in first.folder.parent.iterdir()] == [first.folder.name]


@pytest.mark.parametrize(
    "changed",
    [
        replace(EXPERIMENT, split=SplitConfig(seed=1)),
        replace(EXPERIMENT, data=replace(DATA, display=())),
        replace(EXPERIMENT, item={"text": replace(TITLE, catalogue_column="")}),
    ],
)
def test_a_setting_that_the_tables_depend_on_makes_another(
    made: Callable[..., Dataset], changed: Experiment
) -> None:
    assert made(changed).folder != made().folder


def test_a_changed_file_makes_another(made: Callable[..., Dataset], base: Path) -> None:
    first = made()
    with (base / "pairs.csv").open("a") as file:
        file.write("one more query,007,1\n")
    second = made()
    assert second.folder != first.folder
    assert second.pairs.height == first.pairs.height + 1


def test_a_file_that_changes_while_it_is_read_is_refused(
    made: Callable[..., Dataset], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = files.FilesSource.read

    def edited(source: files.FilesSource) -> Tables:
        tables = read(source)
        with (base / "items.csv").open("a") as file:
            file.write("\n")
        return tables

    monkeypatch.setattr(files.FilesSource, "read", edited)
    with pytest.raises(DataError, match=r"books: the data \(files\) changed while they were read"):
        made()
    assert not (base / "cache").exists()
    monkeypatch.undo()
    assert made().folder.is_dir()


def test_of_two_concurrent_builds_the_second_keeps_the_result_of_the_first(
    made: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, inner = files.FilesSource.read, list[os.stat_result]()

    def overtaken(source: files.FilesSource) -> Tables:
        monkeypatch.undo()
        inner.append(made().folder.stat())
        return read(source)

    monkeypatch.setattr(files.FilesSource, "read", overtaken)
    folder = made().folder
    assert folder.stat().st_ino == inner[0].st_ino
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert made(refresh=True).folder.stat().st_ino != inner[0].st_ino
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_full_disk_leaves_no_files_and_the_next_call_builds_it(
    made: Callable[..., Dataset], base: Path
) -> None:
    with (
        files_limited_to(500),
        pytest.raises(DataError, match=r"cache: the data set cannot be written: .*File too large"),
    ):
        made()
    assert list((base / "cache").iterdir()) == []
    assert made().items.height == 100


def test_a_damaged_folder_is_named(made: Callable[..., Dataset]) -> None:
    folder = made().folder
    (folder / "pairs.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=rf"{folder.name}: damaged"):
        made()


def test_a_damaged_page_is_named_when_it_is_read(made: Callable[..., Dataset]) -> None:
    path = made().folder / "pairs.parquet"
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56  # the first page; the columns are described at the end of the file
    path.write_bytes(content)
    damaged = made()
    with pytest.raises(DataError, match=rf"{path.parent.name}: damaged .*; delete it to build it again"):
        _ = damaged.pairs


def test_a_data_set_is_read_to_the_end_when_its_folder_is_replaced_or_removed(
    made: Callable[..., Dataset],
) -> None:
    data = made()
    pairs = data.pairs
    made(refresh=True)
    assert data.part("train").equals(pairs.filter(pl.col("part") == "train"))
    shutil.rmtree(data.folder)
    assert data.pairs.equals(pairs)


@pytest.mark.parametrize("most", [3, 2**32 - 1])
def test_rows_have_the_same_ranks_however_they_are_ranked(most: int) -> None:
    draw = np.random.default_rng(most)
    table = pl.DataFrame(
        {
            "begin": draw.integers(4, size=500).astype(np.uint32) * np.uint32(most // 3),
            "part": pl.Series(draw.choice(["train", "test", "cold"], 500), dtype=PART),
            "end": draw.integers(3, size=500).astype(np.uint32) * np.uint32(most // 3),
        }
    )
    known = table.select(pl.struct(pl.all()).rank("dense").cast(pl.Int64) - 1).to_series()
    assert dense_ranks(table).equals(known)
    strings = table.with_columns(pl.col("part").cast(pl.String))
    assert dense_ranks(strings).equals(known)
    assert dense_ranks(table.clear()).is_empty()


def test_a_column_that_no_table_has_is_named(
    made: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = pl.DataFrame({"item_id": ["a"], "text": ["b"]})
    pairs = pl.DataFrame({"query": ["q"], "item_row": [0], "weight": [1.0], "group": ["g"]})
    monkeypatch.setattr(pydocs, "read", lambda *_: Tables(items, Partitions.of(pairs), (), {}))
    lacking = replace(EXPERIMENT, data=PydocsData("pydocs"))
    with pytest.raises(DataError, match=r"pydocs: item\.text reads column 'title', .* it has item_id, text"):
        made(lacking)


def test_a_sample_is_seeded() -> None:
    items = pl.DataFrame({"item_id": [str(n) for n in range(200)]})
    rows = pl.int_range(200, dtype=pl.UInt32, eager=True)
    pairs = pl.DataFrame({"item_row": rows, "group": (rows // 4).cast(pl.String)})
    tables = Tables(items, Partitions.of(pairs), (), {})
    first, again, other = (sample_groups(tables, 50, seed).items for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
    assert 50 <= first.height < 54
    assert sample_groups(tables, 0, 1) is tables


def test_a_query_is_removed_as_whole_words() -> None:
    assert collapse_spaces(" a\n\tb ") == "a b"
    assert without_query("Read a FILE, then read a\nfile.", "read a file") == ", then ."
    assert without_query("Read a FILE, then read a filed thing", "read a file").endswith("a filed thing")
    assert contains_query("read a filed thing", "Read a File")
    assert contains_query("the \ufb01le", "FILE")
    assert not contains_query("nothing of the sort", "read a file")
