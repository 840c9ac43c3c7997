"""A mapped catalogue says what the catalogue says that it was made of, whatever the ids are."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.serving.catalogues import NAMES, catalogues, texts
from tests.helpers.serving.segments import items_of
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.packed_items import PackedItems
from twinspire.serving.segments.shared_catalogue import FREE, MappedCatalogue, slot_count, slots_of


def mapped(catalogue: Catalogue) -> MappedCatalogue:
    slots = slots_of(catalogue.ids, len(catalogue.ids))
    ranking, shares = catalogue.ranking, catalogue.shares
    return MappedCatalogue(PackedItems(catalogue), NAMES, slots.data, ranking, shares)


@given(catalogues(), st.lists(texts | st.just("\ud800")), st.data())
def test_it_says_the_same(catalogue: Catalogue, others: list[str], data: st.DataObject) -> None:
    made, ids, count = mapped(catalogue), list(catalogue.ids), len(catalogue.ids)
    assert list(made.ids) == ids
    assert made.ids[-1] == ids[-1]
    assert made.ids[1:5:2] == ids[1:5:2]
    for row, item_id in enumerate(ids):
        assert made.find(item_id) == made.find(item_id) == row
        assert list(made.fields(row).items()) == list(catalogue.fields(row).items())
    assert made.rows([*ids, *others]) == catalogue.rows([*ids, *others]) == {*range(count)}
    excluded = data.draw(st.sets(st.integers(0, count - 1)))
    assert items_of(made).popular(3, excluded) == items_of(catalogue).popular(3, excluded)


@given(catalogues(), texts)
def test_an_item_that_it_lacks_is_unknown(catalogue: Catalogue, other: str) -> None:
    made = mapped(catalogue)
    if other in catalogue.ids:
        assert made.rows([other]) == {catalogue.find(other)}
        return
    for _ in range(2):
        assert items_of(made).find(other) is None
        assert made.rows([other]) == set()
    with pytest.raises(IndexError):
        made.ids[len(catalogue.ids)]


def test_half_of_the_slots_are_free() -> None:
    for count in (1, 2, 3, 4, 5, 8, 300, 65_441):
        assert 2 * count <= slot_count(count) < 4 * count + 2
    slots = slots_of(map(str, range(300)), 300)
    assert slots.dtype == np.uint64
    assert slots.shape == (1024,)
    taken = slots[slots != FREE]
    assert sorted(int(slot) & 0xFFFFFFFF for slot in taken) == [*range(300)]


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
    alone = MappedCatalogue(PackedItems(Two()), (), slots_of(["first", one], 2).data, [], [])
    assert alone.rows([other]) == set()
