"""What of a catalogue a refresh encodes, keeps or leaves out, and the tables that it reads and writes."""

from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.helpers.sources import source_context
from tests.helpers.stdlib import experiment_at, write_toml
from tests.helpers.tampered import reseal
from tests.helpers.tiny import tiny_bundle
from twinspire.export.__main__ import parser
from twinspire.export.encoding.digests import digest, item_digests, read_digests
from twinspire.export.refresh import table
from twinspire.export.refresh.merge import Champion, merge
from twinspire.export.refresh.sources import ItemChange, TableItem, read_items
from twinspire.export.refresh.table import catalogue_table, write_table
from twinspire.protos import bundle
from twinspire.protos.errors import BundleDamaged, DataError, InvalidInput, TwinspireError
from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    IdFeature,
    NumberFeature,
    Schema,
    TextFeature,
)
from twinspire.protos.toml_config import parse
from twinspire.serving.live.store.records import ItemWrite, WriteRequest
from twinspire.serving.live.store.store import Store
from twinspire.train.config import read_experiment
from twinspire.train.config.data import FilterConfig
from twinspire.train.data.filters import with_filter_columns
from twinspire.train.data.source import SourceConfig, source_config
from twinspire.train.data.sources.events import EventsData
from twinspire.train.data.sources.files import FilesData

INPUTS = Schema(
    {"text": TextFeature("text", "query")},
    {
        "text": TextFeature("text", "text", max_length=8),
        "kinds": CategoryFeature("category", "kinds", multi=True),
        "price": NumberFeature("number", "price"),
        "self": IdFeature("id"),
    },
    {"item.kinds": ("a", "b"), "items": ("1", "2")},
).side("item")
ITEM: dict[str, Any] = {"text": "Lämp two", "kinds": ["a"], "price": 2.0, "self": "1"}


def test_a_digest_is_that_of_what_the_tower_reads() -> None:
    same = digest(INPUTS, ITEM)
    assert digest(INPUTS, {**ITEM, "text": "lÄMP two and more than it reads"}) == same
    assert digest(INPUTS, {**ITEM, "price": 2}) == same
    for changed in (
        {"text": "lamp two"},
        {"kinds": ["b"]},
        {"kinds": ["a", "b"]},
        {"price": None},
        {"self": "2"},
    ):
        assert digest(INPUTS, {**ITEM, **changed}) != same
    # Items that the tower has not learned are the same to it.
    assert digest(INPUTS, {**ITEM, "self": "8"}) == digest(INPUTS, {**ITEM, "self": "9"})
    with pytest.raises(InvalidInput, match="text"):
        digest(INPUTS, {**ITEM, "text": None})
    columns = {name: [value, value] for name, value in ITEM.items()}
    assert item_digests(INPUTS, columns).tobytes() == 2 * same


@pytest.fixture
def champion(tmp_path: Path) -> Champion:
    folder = tiny_bundle(tmp_path, items=20)
    return Champion.read(folder, bundle.read(folder))


def test_items_that_are_refused_are_left_out(champion: Champion) -> None:
    changes = (
        ItemChange(1, "new-1", False, {"text": "bavuti"}, {"name": "one"}),
        ItemChange(2, "item-004", False, {"text": "xelike"}, {}),
        ItemChange(3, "new-2", False, {"text": "sotira"}, {"name": "two"}),
    )
    found = merge(champion, None, changes)
    assert (found.fresh_count, found.new, found.fresh["text"]) == (3, 2, ["xelike", "bavuti", "sotira"])
    refused = {"new-1": "not finite", "item-004": "not finite"}
    left = merge(champion, None, changes, refused)
    assert (left.new, left.failed, left.deleted, left.fresh["text"]) == (1, refused, 1, ["sotira"])
    assert left.items.ids[-1] == "new-2" and left.items.fields["name"][-1] == "two"
    assert len(left.items.digests) == len(left.items.popularity) == left.counts()["items"] == 20


def test_the_champion_without_changes_is_the_catalogue(champion: Champion) -> None:
    assert merge(champion, None, []).is_unchanged
    assert merge(champion, None, [ItemChange(1, "unknown", True, {}, {})]).is_unchanged
    assert not merge(champion, None, [ItemChange(1, "item-001", True, {}, {})]).is_unchanged
    with pytest.raises(DataError, match="no item is left"):
        merge(champion, {}, [])


def test_an_item_that_was_deleted_and_is_in_the_table_stays_deleted(champion: Champion) -> None:
    table = {name: TableItem({"text": name}, {"name": name, "section": None}, {}) for name in ("a", "b")}
    found = merge(champion, table, [ItemChange(1, "a", True, {}, {})])
    assert (found.items.ids, found.new, found.deleted) == (["b"], 1, 20)


def written(digests: np.ndarray, folder: Path) -> None:
    np.save(folder / bundle.DIGESTS, digests)


def test_digests_that_are_not_one_for_each_item_are_damage(champion: Champion, tmp_path: Path) -> None:
    assert read_digests(champion.folder, champion.manifest) is None
    for content in (np.zeros((3, 16), np.uint8), np.zeros((20, 16), np.int8)):
        folder = reseal(champion.folder, tmp_path / "other", partial(written, content))
        with pytest.raises(BundleDamaged, match="expected uint8"):
            read_digests(folder, bundle.read(folder))


COLUMNS: dict[str, FeatureSpec] = {
    "words": TextFeature("text", "title", catalogue_column="full"),
    "kinds": CategoryFeature("category", "tags", multi=True),
    "cost": NumberFeature("number", "price"),
    "self": IdFeature("id"),
}
QUERY: dict[str, FeatureSpec] = {"text": TextFeature("text", "query")}
FILTER = FilterConfig(("tags", "price", "sale", "made"), {"sale": "boolean", "made": "time"})


def items() -> pl.DataFrame:
    table = pl.DataFrame(
        {
            "item_id": ["1", "2", "3"],
            "title": ["one", "two", "three"],
            "full": ["one!", "two!", "three!"],
            "tags": [["a"], ["a", "b"], []],
            "price": [1.0, None, 3.0],
            "shelf": [7, 8, None],
            "sale": ["true", None, "false"],
            "made": ["2026-01-02", None, "2026-01-03T04:05:06"],
        }
    )
    found = with_filter_columns(table, "test", FILTER, COLUMNS)
    return found.drop("sale", "made")


CHANGES = [
    ItemChange(2, "1", True, {}, {}),
    ItemChange(3, "2", False, {"words": "deux", "kinds": ["c"], "cost": 2.5, "sale": "true"}, {"shelf": "9"}),
    ItemChange(4, "new", False, {"words": "neuf", "made": "2026-02-01"}, {}),
]


def test_deletes_remove_and_writes_replace_and_add_under_the_columns_that_are_read() -> None:
    found = catalogue_table(items(), COLUMNS, ["shelf"], CHANGES)
    rows = {row["item_id"]: row for row in found.to_dicts()}
    assert [*rows] == ["3", "2", "new"]
    assert (rows["2"]["title"], rows["2"]["full"], rows["2"]["tags"]) == ("deux", "deux", ["c"])
    assert (rows["2"]["price"], rows["2"]["shelf"], rows["2"]["sale"]) == (2.5, 9, True)
    assert (rows["new"]["shelf"], rows["new"]["sale"], rows["new"]["made"].isoformat()) == (
        None, None, "2026-02-01T00:00:00"
    )  # fmt: skip
    assert rows["3"]["made"].isoformat() == "2026-01-03T04:05:06"


def test_training_reads_the_table_and_drops_the_pairs_of_deleted_items(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    write_table(catalogue_table(items(), COLUMNS, ["shelf"], CHANGES), path)
    (tmp_path / "pairs.csv").write_text("query,item_id\nfirst,1\nsecond,2\nninth,new\n")
    section = FilesData("files", path.name, "pairs.csv", display=("shelf",), unknown_items="drop")
    tables = section.open(source_context(tmp_path, QUERY, COLUMNS)).read()
    found = {row["item_id"]: row for row in tables.items.to_dicts()}
    assert [*found] == ["3", "2", "new"]
    assert (found["2"]["title"], found["2"]["tags"], found["2"]["price"]) == ("deux", ["c"], 2.5)
    assert str(found["2"]["shelf"]) == "9"
    assert tables.pairs.collect()["query"].to_list() == ["second", "ninth"]
    assert tables.dropped == {"pair of an unknown item": 1}


def test_a_value_that_does_not_fit_its_column_is_an_error_that_names_it() -> None:
    changes = [
        ItemChange(1, "1", False, {"words": "x"}, {"shelf": "4"}),
        ItemChange(2, "2", False, {"words": "x"}, {"shelf": "top"}),
        ItemChange(3, "3", False, {"words": "x"}, {"shelf": "low"}),
    ]
    with pytest.raises(DataError, match=r"^item '2', column 'shelf': expected Int64"):
        catalogue_table(items(), COLUMNS, ["shelf"], changes)
    changes = [
        ItemChange(1, "1", False, {"words": "x", "made": "2026-01-02"}, {}),
        ItemChange(2, "2", False, {"words": "x", "made": "tomorrow"}, {}),
    ]
    with pytest.raises(DataError, match=r"^item '2', column 'made': expected .*tomorrow"):
        catalogue_table(items(), COLUMNS, ["shelf"], changes)


def test_the_command_writes_the_items_of_the_data_set_with_the_changes(stdlib: Path, tmp_path: Path) -> None:
    config = write_toml(stdlib, tmp_path / "stdlib.toml")
    before = experiment_at(config)[1].items
    first, second = before["item_id"][:2]
    url = f"sqlite:///{tmp_path / 'items.db'}"
    output = tmp_path / "items.parquet"
    given = ["catalogue", "--config", str(config), "--catalogue", url, "--output", str(output)]
    arguments = parser().parse_args(given)
    with pytest.raises(TwinspireError, match="there is no store at this URL"):
        table.command(read_experiment(config), arguments)
    written = ItemWrite(second, features='{"text": "a new text"}', fields='{"name": "new"}')
    with closing(Store.open(url)) as store:
        store.write([WriteRequest([ItemWrite(first, True), written])])
    done = table.command(read_experiment(config), arguments)
    assert (done["items"], done["written"], done["deletes"]) == (before.height - 1, 1, 1)
    found = pl.read_parquet(output)
    (row,) = found.filter(pl.col("item_id") == second).to_dicts()
    assert (row["text"], row["full_text"], row["name"], row["summary"]) == (
        "a new text",
        "a new text",
        "new",
        None,
    )
    rest = [each for each in before["item_id"] if each not in (first, second)]
    assert found["item_id"].to_list() == [*rest, second]
    again = write_toml(stdlib, tmp_path / "again.toml", data={"items": str(output), "unknown_items": "drop"})
    dataset = experiment_at(again)[1]
    assert dataset.items.height == before.height - 1
    assert dataset.report["dropped"]["pair of an unknown item"] > 0


TITLE = {"text": TextFeature("text", "title")}
FILES = {"kind": "files", "items": "ml/movies.dat", "pairs": "pairs.csv"}
CASTS = {"item_casts": {"item_id": "id", "not_in_the_table": "lower"}}


def read(path: Path, section: Any, kind: type[SourceConfig], item: Any = TITLE) -> dict[str, TableItem]:
    """The items of a table, of an experiment with this `[data]`; a manifest has many other fields."""
    schema = SimpleNamespace(item={"id": IdFeature("id"), **item})
    manifest: Any = SimpleNamespace(schema=schema, filters={}, display_fields=())
    return read_items(path, source_config(parse(section, kind)).item_table(), manifest)


def test_ids_are_those_of_training(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": [1.0, 2.0], "title": ["one", "two"]}).write_parquet(path)
    assert [*read(path, {**FILES, **CASTS}, FilesData)] == ["1", "2"]
    with pytest.raises(DataError, match=r'got 1\.0; item_casts\."item_id" = "id" in \[data\]'):
        read(path, FILES, FilesData)


def test_items_that_were_built_from_events_have_the_casts_of_the_events(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"item_id": [1.0], "cost": ["3.0"], "title": ["ONE"]}).write_parquet(path)
    section = {
        "kind": "events",
        "events": "log.csv",
        "item": "sku",
        "casts": {"sku": "id", "title": "lower", "user_id": "id"},
        "item_columns": {"title": "first", "cost": "mean"},
    }
    item = {**TITLE, "price": NumberFeature("number", "cost")}
    found = read(path, section, EventsData, item)
    assert [*found] == ["1"]
    assert (found["1"].values["text"], found["1"].values["price"]) == ("one", 3.0)
