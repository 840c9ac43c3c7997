"""A mapped catalogue says what the catalogue says that it was made of, whatever the ids are."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.serving.catalogues import NAMES, catalogues, texts
from tests.helpers.serving.segments import items_of
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.packed_items import PackedItems
from twinspire.serving.segments.shared_catalogue import MappedCatalogue, codes_of


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
    assert items_of(made).popular(3, excluded) == items_of(catalogue).popular(3, excluded)


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
