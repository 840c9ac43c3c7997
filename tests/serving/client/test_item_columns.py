"""Which features and filter fields the columns of a table feed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twinspire.serving.client.item_upload import ItemFileColumns


def test_a_filter_field_is_fed_beside_the_feature_of_another_name_that_reads_its_column() -> None:
    item = {"kind_of_item": {"kind": "category", "column": "section"}, "price": {"kind": "number"}}
    columns = columns_of(item, filters={"section": "string", "price": "number", "sale": "boolean"})
    row = {"item_id": "1", "section": "shoes", "price": "3", "sale": "true"}
    expected = {"kind_of_item": "shoes", "section": "shoes", "price": 3.0, "sale": "true"}
    assert columns.item(row, 1).features == expected
    assert not columns.ignored


def columns_of(item: dict[str, Any], *display_fields: str, **manifest: Any) -> ItemFileColumns:
    manifest["schema"] = {"item": item}
    served: Any = SimpleNamespace(manifest=manifest, display_fields=display_fields)
    return ItemFileColumns(Path("items.csv"), served)


ROW = {"item_id": "1", "text": "by its name", "description": "by the schema"}


@pytest.mark.parametrize(
    ("row", "features", "ignored"),
    [
        (ROW, {"text": "by the schema"}, {"text"}),
        (dict(reversed(ROW.items())), {"text": "by the schema"}, {"text"}),
        ({**ROW, "description": ""}, {}, {"text"}),
        ({"item_id": "1", "text": "by its name"}, {"text": "by its name"}, set()),
    ],
    ids=["both", "both, reversed", "an empty cell is not replaced", "its name alone"],
)
def test_the_column_of_the_schema_feeds_a_feature_before_that_of_its_name(
    row: dict[str, str], features: dict[str, str], ignored: set[str]
) -> None:
    columns = columns_of({"text": {"kind": "text", "column": "description"}})
    assert (columns.item(row, 1).features, columns.ignored) == (features, ignored)


def test_a_column_that_no_longer_feeds_its_feature_still_feeds_others_and_a_display_field() -> None:
    spec = {"kind": "text", "column": "description"}
    columns = columns_of({"text": spec, "head": {"kind": "text", "column": "text"}}, "text")
    item = columns.item(ROW, 1)
    assert item.features == {"text": "by the schema", "head": "by its name"}
    assert item.fields == {"text": "by its name"}
    assert not columns.ignored


@pytest.mark.parametrize(
    ("displayed", "row", "item_id", "fields", "ignored"),
    [
        (["id"], {"item_id": "1", "id": "A-7"}, "1", {"id": "A-7"}, set()),
        (["id"], {"id": "A-7"}, "A-7", {}, set()),
        (["id"], {"item_id": "", "id": "A-7"}, "A-7", {}, set()),
        (["id"], {"item_id": "1", "id": ""}, "1", {}, set()),
        ([], {"item_id": "1", "id": "A-7"}, "1", {}, {"id"}),
    ],
)
def test_a_column_id_beside_the_items_id_is_a_display_field_or_ignored(
    displayed: list[str], row: dict[str, str], item_id: str, fields: dict[str, str], ignored: set[str]
) -> None:
    columns = columns_of({}, *displayed)
    item = columns.item(row, 1)
    assert (item.id, item.fields, columns.ignored) == (item_id, fields, ignored)
