"""Tables of items for a refresh: they are read as the experiment reads its own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from tests.helpers.stdlib import write_toml
from twinspire.export.__main__ import parser
from twinspire.export.refresh import command
from twinspire.export.refresh.refresh import RefreshRequest
from twinspire.export.refresh.sources import TableItem, read_items
from twinspire.protos.errors import DataError
from twinspire.protos.features import IdFeature, NumberFeature, TextFeature
from twinspire.protos.toml_config import parse
from twinspire.train.data.source import SourceConfig, source_config
from twinspire.train.data.sources.events import EventsData
from twinspire.train.data.sources.files import FilesData

TEXT = {"text": TextFeature("text", "title")}
FILES = {"kind": "files", "items": "ml/movies.dat", "pairs": "pairs.csv"}
EVENTS = {"kind": "events", "events": "log.csv", "items": "items.csv"}
CASTS = {"item_casts": {"item_id": "id", "not_in_the_table": "lower"}}


def read(path: Path, section: Any, kind: type[SourceConfig], item: Any = TEXT) -> dict[str, TableItem]:
    """The items of a table, of an experiment with this `[data]`; a manifest has many other fields."""
    schema = SimpleNamespace(item={"id": IdFeature("id"), **item})
    manifest: Any = SimpleNamespace(schema=schema, filters={}, display_fields=())
    return read_items(path, source_config(parse(section, kind)).item_table(), manifest)


@pytest.mark.parametrize("kind", [FilesData, EventsData])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ids_are_those_of_training(tmp_path: Path, kind: Any, suffix: str) -> None:
    path = tmp_path / f"items.{suffix}"
    frame = pl.DataFrame({"item_id": [1.0, 2.0], "title": ["one", "two"]})
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    section = FILES if kind is FilesData else EVENTS
    assert [*read(path, {**section, **CASTS}, kind)] == ["1", "2"]
    if suffix == "parquet":
        with pytest.raises(DataError, match=r'got 1\.0; item_casts\."item_id" = "id" in \[data\]'):
            read(path, section, kind)


def test_a_table_that_ends_as_that_of_the_experiment_has_its_layout(tmp_path: Path) -> None:
    (tmp_path / "new.dat").write_bytes("7::Misérables\n".encode("latin-1"))
    layout = {"columns": ["item_id", "title"], "encoding": "latin-1"}
    layouts = {**FILES, "layouts": {"ml/movies.dat": layout}}
    (found,) = read(tmp_path / "new.dat", layouts, FilesData).values()
    assert found.values["text"] == "Misérables"
    with pytest.raises(
        DataError, match=r'new\.dat: .* \[data\.layouts\."ml/movies\.dat"\] of the TOML names'
    ):
        read(tmp_path / "new.dat", FILES, FilesData)
    (tmp_path / "new.csv").write_text("item_id,title\n7,Up\n")
    assert [*read(tmp_path / "new.csv", layouts, FilesData)] == ["7"]


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


def test_the_command_passes_on_how_the_experiment_reads_items(
    stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_toml(stdlib, tmp_path / "stdlib.toml", data={"item_id": "sku"})
    config.write_text(config.read_text().replace("[data]", '[data]\nitem_casts.sku = "id"'))
    asked: list[RefreshRequest] = []

    def run(request: RefreshRequest, console: Any) -> Any:
        asked.append(request)
        raise DataError("far enough")

    monkeypatch.setattr(command, "run", run)
    with pytest.raises(DataError, match="far enough"):
        command.refresh(parser().parse_args(["refresh", "--config", str(config), "--items", "new.csv"]))
    table = asked[0].table
    assert (table.id_column, table.casts, table.casts_key) == ("sku", {"sku": "id"}, "item_casts")
