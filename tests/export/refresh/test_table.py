"""The catalogue as it stands, as a table that training reads."""

from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from tests.helpers.sources import source_context
from tests.helpers.stdlib import experiment_at, write_toml
from twinspire.export.__main__ import parser
from twinspire.export.refresh import command
from twinspire.export.refresh.sources import ItemChange
from twinspire.export.refresh.table import catalogue_table, write_table
from twinspire.protos.errors import DataError, TwinspireError
from twinspire.protos.features import CategoryFeature, FeatureSpec, IdFeature, NumberFeature, TextFeature
from twinspire.serving.live.store.store import Store
from twinspire.serving.live.store.write_rules import ItemWrite, WriteRequest
from twinspire.train.config.data import FilterConfig
from twinspire.train.data.filters import with_filter_columns
from twinspire.train.data.sources.files import FilesData

ITEM: dict[str, FeatureSpec] = {
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
    found = with_filter_columns(table, "test", FILTER, ITEM)
    return found.drop("sale", "made")


CHANGES = [
    ItemChange(2, "1", True, {}, {}),
    ItemChange(3, "2", False, {"words": "deux", "kinds": ["c"], "cost": 2.5, "sale": "true"}, {"shelf": "9"}),
    ItemChange(4, "new", False, {"words": "neuf", "made": "2026-02-01"}, {}),
]


def test_deletes_remove_and_writes_replace_and_add_under_the_columns_that_are_read() -> None:
    found = catalogue_table(items(), ITEM, ["shelf"], CHANGES)
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
    write_table(catalogue_table(items(), ITEM, ["shelf"], CHANGES), path)
    (tmp_path / "pairs.csv").write_text("query,item_id\nfirst,1\nsecond,2\nninth,new\n")
    section = FilesData("files", path.name, "pairs.csv", display=("shelf",), unknown_items="drop")
    tables = section.open(source_context(tmp_path, QUERY, ITEM)).read()
    found = {row["item_id"]: row for row in tables.items.to_dicts()}
    assert [*found] == ["3", "2", "new"]
    assert (found["2"]["title"], found["2"]["tags"], found["2"]["price"]) == ("deux", ["c"], 2.5)
    assert str(found["2"]["shelf"]) == "9"
    assert tables.pairs["query"].to_list() == ["second", "ninth"]
    assert tables.dropped == {"pair of an unknown item": 1}


def test_a_value_that_does_not_fit_its_column_is_an_error_that_names_it() -> None:
    changes = [
        ItemChange(1, "1", False, {"words": "x"}, {"shelf": "4"}),
        ItemChange(2, "2", False, {"words": "x"}, {"shelf": "top"}),
        ItemChange(3, "3", False, {"words": "x"}, {"shelf": "low"}),
    ]
    with pytest.raises(DataError, match=r"^item '2', column 'shelf': expected Int64"):
        catalogue_table(items(), ITEM, ["shelf"], changes)
    changes = [
        ItemChange(1, "1", False, {"words": "x", "made": "2026-01-02"}, {}),
        ItemChange(2, "2", False, {"words": "x", "made": "tomorrow"}, {}),
    ]
    with pytest.raises(DataError, match=r"^item '2', column 'made': expected .*tomorrow"):
        catalogue_table(items(), ITEM, ["shelf"], changes)


def test_the_command_writes_the_items_of_the_data_set_with_the_changes(stdlib: Path, tmp_path: Path) -> None:
    config = write_toml(stdlib, tmp_path / "stdlib.toml")
    before = experiment_at(config)[1].items
    first, second = before["item_id"][:2]
    url = f"sqlite:///{tmp_path / 'items.db'}"
    output = tmp_path / "items.parquet"
    given = ["catalogue", "--config", str(config), "--catalogue", url, "--output", str(output)]
    arguments = parser().parse_args(given)
    with pytest.raises(TwinspireError, match="there is no store at this URL"):
        command.catalogue(arguments)
    written = ItemWrite(second, features='{"text": "a new text"}', fields='{"name": "new"}')
    with closing(Store.open(url)) as store:
        store.write([WriteRequest([ItemWrite(first, True), written])])
    done = command.catalogue(arguments)
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
