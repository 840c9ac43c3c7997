"""What stands in items.json: ids, popularity and display fields, as many as the manifest says."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.serving.segments import items_of
from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.bundle import ITEMS
from twinspire.protos.errors import BundleDamaged
from twinspire.serving.segments.catalogue import Catalogue

TABLE: dict[str, Any] = {
    "ids": ["a", "b", "c", "d"],
    "popularity": [0.25, 0, 0.5, 0.25],
    "fields": {"name": ["A", "B", None, "D"], "section": [None] * 4},
}


def catalogue(folder: Path, **changed: Any) -> Catalogue:
    table = {name: value for name, value in {**TABLE, **changed}.items() if value is not None}
    (folder / ITEMS).write_text(json.dumps(table))
    return Catalogue(folder, tiny_manifest(4, TinyTower()))


def test_the_most_popular_come_first_and_among_equals_the_lower_row(tmp_path: Path) -> None:
    found = items_of(catalogue(tmp_path))
    assert found.popular(4, ()) == ([2, 0, 3, 1], [0.5, 0.25, 0.25, 0.0])
    assert found.popular(2, {2, 3}) == ([0, 1], [0.25, 0.0])
    assert found.popular(9, {0, 1, 2, 3}) == ([], [])


def test_without_popularity_the_order_is_that_of_the_rows(tmp_path: Path) -> None:
    assert items_of(catalogue(tmp_path, popularity=[0.0] * 4)).popular(3, {1}) == ([0, 2, 3], [0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"popularity": None}, "expected JSON with ids, popularity and fields"),
        ({"popularity": [0.5, 0.5, 0, -0.1]}, "popularity: expected a list of numbers"),
        ({"popularity": [0.5, 0.5, 0, float("nan")]}, "popularity: expected a list of numbers"),
        ({"popularity": [0.5, 0.5, 0, True]}, "popularity: expected a list of numbers"),
        ({"popularity": [0.5, 0.5, 0]}, "3 popularity, but the manifest counts 4 items"),
        ({"ids": ["a", "b", "c"]}, "3 ids, but the manifest counts 4 items"),
        ({"ids": ["a", "b", "c", "a"]}, "an item id stands in it twice"),
        ({"ids": ["a", "b", "c", None]}, "ids: expected a list of strings"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(BundleDamaged, match=f"{ITEMS}: {expected}"):
        catalogue(tmp_path, **changed)
