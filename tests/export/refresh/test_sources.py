"""Tables of items for a refresh: they are read as the experiment reads its own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from twinspire.export.refresh.sources import TableItem, read_items
from twinspire.protos.errors import DataError
from twinspire.protos.features import IdFeature, NumberFeature, TextFeature
from twinspire.protos.toml_config import parse
from twinspire.train.data.source import SourceConfig, source_config
from twinspire.train.data.sources.events import EventsData
from twinspire.train.data.sources.files import FilesData

TEXT = {"text": TextFeature("text", "title")}
FILES = {"kind": "files", "items": "ml/movies.dat", "pairs": "pairs.csv"}
CASTS = {"item_casts": {"item_id": "id", "not_in_the_table": "lower"}}


def read(path: Path, section: Any, kind: type[SourceConfig], item: Any = TEXT) -> dict[str, TableItem]:
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
    item = {**TEXT, "price": NumberFeature("number", "cost")}
    found = read(path, section, EventsData, item)
    assert [*found] == ["1"]
    assert (found["1"].values["text"], found["1"].values["price"]) == ("one", 3.0)
