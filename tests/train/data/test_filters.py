"""`[filter]`: which columns of the items a search can filter by, and their types."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.helpers.sources import source_context
from twinspire.protos.errors import ConfigError, DataError
from twinspire.protos.features import CategoryFeature, FeatureSpec, NumberFeature, TextFeature
from twinspire.train.config.data import FilterConfig
from twinspire.train.data.filters import filter_kinds, filter_values, with_filter_columns
from twinspire.train.data.sources.events import EventsData
from twinspire.train.data.sources.files import FilesData

QUERY: dict[str, FeatureSpec] = {"text": TextFeature(kind="text", column="query")}
TITLE: dict[str, FeatureSpec] = {"text": TextFeature(kind="text", column="title")}
CSV = "item_id,title,price,tags,on,at\n1,One,12.5,a|b,true,2026-01-02\n2,Two,,,0,\n"
PAIRS = "query,item_id\nspy gun,1\nlucky number,2\n"
FIELDS = ("price", "tags", "on", "at")
TYPES: Any = {"price": "number", "tags": "strings", "on": "boolean", "at": "time"}


def read(
    folder: Path, config: FilterConfig, items: str = CSV, name: str = "items.csv", item: Any = None
) -> pl.DataFrame:
    (folder / name).write_text(items)
    (folder / "pairs.csv").write_text(PAIRS)
    section = FilesData(kind="files", items=name, pairs="pairs.csv", display=("price",))
    return section.open(source_context(folder, QUERY, item or TITLE, filter=config)).read().items


def test_types_are_those_that_are_named(tmp_path: Path) -> None:
    items = read(tmp_path, FilterConfig(FIELDS, TYPES))
    assert filter_kinds(items) == TYPES
    assert {name: filter_values(items, name) for name in FIELDS} == {
        "price": [12.5, None],
        "tags": [["a", "b"], None],
        "on": [1, 0],
        "at": [1_767_312_000_000_000, None],
    }
    assert items["price"].to_list() == ["12.5", ""]  # the display field stays a text


def test_a_feature_tells_the_type_of_its_column(tmp_path: Path) -> None:
    features = {
        **TITLE,
        "price": NumberFeature(kind="number", column="price"),
        "tags": CategoryFeature(kind="category", column="tags", multi=True),
    }
    items = read(tmp_path, FilterConfig(("price", "tags")), item=features)
    assert filter_kinds(items) == {"price": "number", "tags": "strings"}


def test_a_table_with_types_tells_them(tmp_path: Path) -> None:
    rows = '{"item_id": "1", "title": "One", "price": 3, "tags": ["a"], "on": true}\n'
    rows += '{"item_id": "2", "title": "Two", "price": null, "tags": [], "on": false}\n'
    items = read(tmp_path, FilterConfig(("price", "tags", "on")), rows, "items.jsonl")
    assert filter_kinds(items) == {"price": "number", "tags": "strings", "on": "boolean"}
    assert filter_values(items, "tags") == [["a"], None]


def test_a_wrong_value_names_file_row_and_column(tmp_path: Path) -> None:
    config = FilterConfig(("title",), {"title": "number"})
    wrong = r"items.csv: row 1, column 'title': expected a finite number, got 'One'"
    with pytest.raises(DataError, match=wrong):
        read(tmp_path, config)
    years = "item_id,title,price,at\n1,One,,2026-01-02\n2,Two,,2026\n"
    with pytest.raises(DataError, match=r"row 2, column 'at': .* at least 9 digits, got '2026'"):
        read(tmp_path, FilterConfig(("at",), {"at": "time"}), years)
    with pytest.raises(DataError, match="column 'colour' is missing"):
        read(tmp_path, FilterConfig(("colour",)))


def test_items_that_are_built_from_events_have_the_columns_of_their_rules(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,price\na,x,1\na,y,5\nb,x,3\n")

    def tables(config: FilterConfig) -> pl.DataFrame:
        data = EventsData(kind="events", events="log.csv", item_columns={"price": "max"})
        return data.open(source_context(tmp_path, filter=config)).read().items

    items = tables(FilterConfig(("price",)))
    assert (filter_kinds(items), filter_values(items, "price")) == ({"price": "number"}, [3.0, 5.0])
    with pytest.raises(DataError, match=r"filter.fields: without an items table, 'size' must be one of"):
        tables(FilterConfig(("size",)))


def test_other_sources_give_their_own_columns() -> None:
    frame = pl.DataFrame({"item_id": ["a", "b"], "section": ["x", ""], "size": [1.5, None]})
    items = with_filter_columns(frame, "debian", FilterConfig(("section", "size")), {})
    assert filter_kinds(items) == {"section": "string", "size": "number"}
    assert filter_values(items, "section") == ["x", None]
    with pytest.raises(DataError, match="'colour' is no column of the items; they have item_id, section, si"):
        with_filter_columns(frame, "debian", FilterConfig(("colour",)), {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"fields": ("a", "a")},
        {"fields": ("a",), "types": {"b": "number"}},
        {"fields": tuple(f"f{n}" for n in range(65))},
    ],
)
def test_a_section_that_does_not_fit_is_refused(wrong: Any) -> None:
    with pytest.raises((ValueError, ConfigError), match="fields"):
        FilterConfig(**wrong)
