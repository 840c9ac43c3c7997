"""Which features and filter fields the columns of a table feed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from serving.client.item_files import ItemColumns


def test_a_filter_field_is_fed_beside_the_feature_of_another_name_that_reads_its_column() -> None:
    item = {"kind_of_item": {"kind": "category", "column": "section"}, "price": {"kind": "number"}}
    manifest = {
        "schema": {"item": item},
        "filters": {"section": "string", "price": "number", "sale": "boolean"},
    }
    served: Any = SimpleNamespace(manifest=manifest, display_fields=())
    columns = ItemColumns.of(Path("items.csv"), served)
    row = {"item_id": "1", "section": "shoes", "price": "3", "sale": "true"}
    expected = {"kind_of_item": "shoes", "section": "shoes", "price": 3.0, "sale": "true"}
    assert columns.item(row, 1).features == expected
    assert not columns.ignored
