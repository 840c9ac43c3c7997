"""A filter holds of live items as it does of the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.filter_oracle import passes
from tests.helpers.serving.live import LiveWorld
from tests.helpers.tiny import FILTERS as SCHEMA
from tests.helpers.tiny import filter_values, item_ids, item_names, tiny_bundle, watched_bundle
from twinspire.protos.nearest import search
from twinspire.serving.client import where
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.query import PreparedQuery, Query
from twinspire.serving.retrieval.retriever import Retriever

ITEMS = 300
LARGE = 8000
TEXTS = item_names(ITEMS)


class Shop:
    """A world whose items have filter fields, and their values."""

    def __init__(self, folder: Path, place: Path, base: Retriever | None = None, items: int = ITEMS) -> None:
        self.world = LiveWorld(folder, place, base)
        self.values: dict[str, Mapping[str, Any]] = dict(
            zip(item_ids(items), filter_values(items), strict=True)
        )
        self.plans: set[Plan] = set()

    def put(self, item_id: str, text: str, values: Mapping[str, Any]) -> None:
        (self.world.truth[item_id],) = self.world._encode([Query(features={"text": text})])
        self.world.feed.put(item_id, {"text": text, **values})
        self.values[item_id] = values

    def delete(self, item_id: str) -> None:
        self.world.delete(item_id)
        self.values.pop(item_id, None)

    def passing(self, node: Filter) -> set[str]:
        return {item_id for item_id, values in self.values.items() if passes(node, values)}

    def check(self, texts: list[str], node: Filter, k: int, exclude: frozenset[str] = frozenset()) -> None:
        retriever, truth = self.world.live.retriever, self.world.truth
        encoded = retriever.encode([*map(Query, texts)])
        passing = self.passing(node)
        expected = passing - exclude
        outside = frozenset(truth.keys() - expected)
        options = retriever.search_options(k, exclude, compiled=retriever.filters.compile(node))
        for answer, vector in zip(retriever.search_encoded(encoded, options), encoded.vectors, strict=True):
            ids = [hit.id for hit in answer.hits]
            assert set(ids) <= expected
            assert len(ids) == len(set(ids)) == min(k, len(expected))
            found = [hit.score for hit in answer.hits]
            np.testing.assert_allclose(found, self.world.expected(vector, k, outside), atol=1e-5)
            assert answer.plan is not Plan.UNFILTERED
            if passing:
                assert answer.plan is not Plan.EMPTY
            self.plans.add(answer.plan)
        (lone,) = retriever.search([Query(texts[0])], k, exclude, filter=node)
        assert len(lone.hits) == min(k, len(expected))
        found, outside = [hit.score for hit in lone.hits], frozenset(truth.keys() - expected)
        np.testing.assert_allclose(found, self.world.expected(encoded.vectors[0], k, outside), atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("filtered"), ITEMS, filters=SCHEMA)


@pytest.fixture(scope="module")
def base(folder: Path) -> Retriever:
    return Retriever.load(folder)


@pytest.fixture
def shop(folder: Path, base: Retriever, tmp_path: Path) -> Shop:
    return Shop(folder, tmp_path, base)


def test_live_filters_are_searched_in_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of items that pass, the graph finds withdrawn ones, too; the answers must be full all the same."""
    monkeypatch.setattr(search, "EXACT_SHARE", 1)  # as if comparing took long: as it does with many items
    folder = tiny_bundle(tmp_path / "made", LARGE, filters=SCHEMA)
    shop = Shop(folder, tmp_path, items=LARGE)
    node = where.price >= 0
    texts = TEXTS[:5]
    nearest = shop.world.live.retriever.search([*map(Query, texts)], 20, filter=node)
    for answer in nearest:
        for hit in answer.hits[::2]:
            shop.delete(hit.id)
    for n, item_id in enumerate(item_ids(LARGE)[100:200]):
        shop.put(item_id, TEXTS[n], {"price": n} if n % 2 else {})
    assert shop.world.sync() == {}
    for k in (1, 10):
        shop.check(texts, node, k)
        assert Plan.GRAPH in shop.plans


def test_a_changed_price_counts_at_once_and_takes_no_row(shop: Shop) -> None:
    cheap = where.price < 10
    for price in (5, 50, 7, 70):
        shop.put("new", "bavuti", {"price": price})
        shop.world.sync()
        shop.check(["bavuti"], cheap, 5)
        assert ("new" in shop.passing(cheap)) is (price < 10)
    assert shop.world.live.segment.count == 1


def test_filters_of_one_batch_differ_and_survive_changes(shop: Shop) -> None:
    """A filter is compiled when a request is read, and used after changes were applied."""
    retriever = shop.world.live.retriever
    shop.put("new", "bavuti", {"price": 5})
    shop.world.sync()
    prepared: list[PreparedQuery] = [retriever.prepare(Query("bavuti"))] * 3
    compiled = [retriever.filters.compile(each) for each in (where.price < 10, where.price > 60)]
    options = [
        retriever.search_options(ITEMS, compiled=compiled[0]),
        retriever.search_options(ITEMS, compiled=compiled[1]),
        retriever.search_options(3),
    ]
    shop.put("new", "bavuti", {"price": 65})
    shop.put("other", "bavuti", {"price": 1})
    shop.delete("item-000")
    shop.world.sync()
    found = retriever.find(retriever.encode_prepared(prepared), options)
    ids = [{retriever.items.item_id(row) for row in each.rows} for each in found]
    assert ids[0] == shop.passing(where.price < 10)
    assert ids[1] == shop.passing(where.price > 60) == {"new"}
    assert len(ids[2]) == 3


def test_popular_items_pass_the_filter(tmp_path: Path) -> None:
    folder = watched_bundle(tmp_path / "made", filters=SCHEMA)
    shop = Shop(folder, tmp_path)
    shop.put("item-006", "bavuti", {"price": 1})  # the most popular one
    shop.put("new", "bavuti", {"price": 1})
    shop.delete("item-001")
    shop.world.sync()
    node = where.price < 10
    (answer,) = shop.world.live.retriever.search([Query()], ITEMS + 9, filter=node)
    assert answer.plan is Plan.POPULAR
    assert {hit.id for hit in answer.hits} == shop.passing(node)
    assert answer.hits[0].id == "item-006"
    assert answer.hits[-1].id == "new"
    (few,) = shop.world.live.retriever.search([Query()], 3, ["item-006"], filter=node)
    assert few.hits == answer.hits[1:4]
    (none,) = shop.world.live.retriever.search([Query()], 3, filter=where.price > 1000)
    assert (none.hits, none.plan) == ((), Plan.EMPTY)
