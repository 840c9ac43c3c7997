"""What stands in items.json, and a mapped catalogue that says the same."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.serving.catalogues import NAMES, catalogues, texts
from tests.helpers.serving.segments import segment_of
from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.bundle import ITEMS
from twinspire.protos.errors import BundleDamaged
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.packed_items import PackedItems
from twinspire.serving.segments.shared_catalogue import MappedCatalogue, codes_of

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
    found = segment_of(catalogue(tmp_path))
    assert found.popular(4, ()) == ([2, 0, 3, 1], [0.5, 0.25, 0.25, 0.0])
    assert found.popular(2, {2, 3}) == ([0, 1], [0.25, 0.0])
    assert found.popular(9, {0, 1, 2, 3}) == ([], [])


def test_without_popularity_the_order_is_that_of_the_rows(tmp_path: Path) -> None:
    assert segment_of(catalogue(tmp_path, popularity=[0.0] * 4)).popular(3, {1}) == (
        [0, 2, 3],
        [0.0, 0.0, 0.0],
    )


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


def mapped(catalogue: Catalogue) -> MappedCatalogue:
    codes, ranking, shares = codes_of(catalogue.ids).data, catalogue.ranking, catalogue.shares
    return MappedCatalogue(PackedItems(catalogue), NAMES, codes, ranking, shares)


@given(catalogues(), st.lists(texts | st.just("\ud800")), st.data())
def test_it_says_the_same(catalogue: Catalogue, others: list[str], data: st.DataObject) -> None:
    made, ids, count = mapped(catalogue), list(catalogue.ids), len(catalogue.ids)
    assert [made.item_id(row) for row in range(len(made))] == ids
    for row, item_id in enumerate(ids):
        assert made.find(item_id) == made.find(item_id) == row
        assert list(made.fields(row).items()) == list(catalogue.fields(row).items())
    assert made.rows([*ids, *others]) == catalogue.rows([*ids, *others]) == {*range(count)}
    excluded = data.draw(st.sets(st.integers(0, count - 1)))
    assert segment_of(made).popular(3, excluded) == segment_of(catalogue).popular(3, excluded)


def test_ids_of_one_checksum_are_told_apart() -> None:
    one, other = "plumless", "buckeroo"
    assert zlib.crc32(one.encode()) == zlib.crc32(other.encode())

    class Two(Catalogue):
        def __init__(self) -> None:
            self.ids, self.ranking, self.shares = ["first", one, other], [0, 1, 2], [0.5, 0.0, 0.0]

        def fields(self, row: int) -> dict[str, str]:
            return {}

    made = mapped(Two())
    assert (made.find(one), made.find(other)) == (1, 2)
    assert made.rows(["first", "last"]) == {0}
    alone = MappedCatalogue(PackedItems(Two()), (), codes_of(["first", one]).data, [], [])
    assert alone.rows([other]) == set()
