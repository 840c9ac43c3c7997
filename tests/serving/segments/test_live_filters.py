"""A filter holds of live items as it does of the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.filter_oracle import FILTERS, passes
from tests.helpers.serving.cataloguing import catalogue_service
from tests.helpers.serving.live import LiveWorld
from tests.helpers.serving.segments import OtherItems, segment_of
from tests.helpers.tiny import FILTERS as SCHEMA
from tests.helpers.tiny import filter_values, item_ids, item_names, tiny_bundle, watched_bundle
from twinspire.protos.errors import InvalidInput
from twinspire.protos.nearest import search
from twinspire.serving.client import Item, where
from twinspire.serving.filters.expression import Filter
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.query import PreparedQuery, Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.growing import GrowingSegment
from twinspire.serving.segments.packed_items import EncodedItem

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


VALUES = st.sampled_from([*filter_values(60), {}])
WRITES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(item_ids(40)), st.sampled_from(TEXTS), VALUES),
        st.tuples(st.sampled_from([f"new-{n}" for n in range(20)]), st.sampled_from(TEXTS), VALUES),
        st.tuples(st.sampled_from([*item_ids(ITEMS)[::3], "new-1"]), st.none(), st.none()),
    ),
    max_size=40,
)
QUERIES = st.tuples(
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3),
    FILTERS,
    st.sampled_from([1, 10, ITEMS + 30]),
    st.frozensets(st.sampled_from([*item_ids(10), "new-1"]), max_size=3),
)


@pytest.mark.exhaustive
@given(turns=st.lists(st.tuples(WRITES, st.lists(QUERIES, min_size=1, max_size=4)), min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_any_filter_holds_of_any_items(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, base: Retriever, turns: Any
) -> None:
    shop = Shop(folder, tmp_path_factory.mktemp("shop"), base)
    for writes, queries in turns:
        for item_id, text, values in writes:
            if text is None:
                shop.delete(item_id)
            else:
                shop.put(item_id, text, values)
        assert shop.world.sync() == {}
        for query in queries:
            shop.check(*query)
    shop.world.encoder.close()


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


@given(
    share=st.sampled_from([0.0, 0.05, 0.25, 0.3, 1.0]),
    rows=st.integers(0, 80),
    queries=st.integers(1, 40),
    k=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_the_nearest_rows_are_those_that_pass(share: float, rows: int, queries: int, k: int) -> None:
    random = np.random.default_rng([rows, queries, k])
    items = random.standard_normal((rows, 4)).astype(np.float32)
    vectors = random.standard_normal((queries, 4)).astype(np.float32)
    passing = random.random(rows) < share
    segment = GrowingSegment(segment_of(OtherItems()), 4)
    segment.apply([EncodedItem(n, f"{n}", vector=each.tobytes()) for n, each in enumerate(items)])
    found = segment._compare_passing(vectors, k, passing)
    scores = (vectors @ items.T)[:, passing]
    expected = -np.sort(-scores, axis=1)[:, :k]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-6)
    assert passing[found.rows].all()
    assert all(len({*each}) == len(each) for each in found.rows.tolist())


def test_hidden_rows_are_counted_once_for_each_state(shop: Shop) -> None:
    passing = shop.world.live.retriever.filters.compile(where.price < 10)
    (of_bundle, _) = passing.parts
    cheap = sorted(shop.passing(where.price < 10))
    assert of_bundle.deleted_count == 0
    for n, item_id in enumerate(cheap[:3], 1):
        shop.delete(item_id)
        shop.world.sync()
        assert of_bundle.deleted_count == n
    shop.world.live.retriever.built.deleted[:] = True  # without a change, nothing is counted again
    assert of_bundle.deleted_count == 3


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


def test_a_value_that_no_filter_can_read_is_told(shop: Shop) -> None:
    shop.world.feed.put("new", {"text": "bavuti", "price": "cheap"})
    (reason,) = shop.world.sync().values()
    assert reason.startswith("features.price: expected a finite number")


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
    catalogue = shop.world.live.retriever.built.catalogue
    shares = [float(catalogue.shares[row]) for row in catalogue.ranking]
    assert [hit.score for hit in answer.hits[:-1]] == sorted(
        (hit.score for hit in answer.hits[:-1]), reverse=True
    )
    assert answer.hits[0].score == shares[0]
    (few,) = shop.world.live.retriever.search([Query()], 3, ["item-006"], filter=node)
    assert few.hits == answer.hits[1:4]
    (none,) = shop.world.live.retriever.search([Query()], 3, filter=where.price > 1000)
    assert (none.hits, none.plan) == ((), Plan.EMPTY)
    (answer,) = shop.world.live.retriever.search([Query()], ITEMS, filter=where.price == 1)
    assert {hit.id for hit in answer.hits} == shop.passing(where.price == 1)


@pytest.mark.exhaustive
def test_a_service_filters_what_was_written_through_another_worker(folder: Path, tmp_path: Path) -> None:
    with catalogue_service(folder, f"sqlite:///{tmp_path}/items.db", tmp_path / "service") as service:
        with service.client() as one:
            new = Item("new", {"text": "bavuti", "price": 1000, "tags": ["tag 9"], "sale": "true"})
            sequence = one.upsert([new, Item("item-007", {"text": "bavuti", "price": 2000})]).sequence
            with pytest.raises(InvalidInput, match=r"item.features.price: expected a finite number"):
                one.upsert([Item("other", {"text": "bavuti", "price": "cheap"})])
        for _ in range(6):  # so that both workers answer
            with service.client() as client:
                found = client.search("zo", k=5, filter=where.price > 900, min_sequence=sequence)
                assert {hit.id for hit in found.hits} == {"new", "item-007"}
                tagged = client.search("zo", k=5, filter=where.tags == "tag 9")
                assert [hit.id for hit in tagged.hits] == ["new"]
                batch = client.search_batch(["zo", "ba"], k=5, filter=where.price == 1000)
                assert [[hit.id for hit in each.hits] for each in batch] == [["new"]] * 2
