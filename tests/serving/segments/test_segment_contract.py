"""What every kind of segment here does: a bundle's, searched exactly or by a graph, and live items.

What one on another server does is in `test_remote.py`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.serving.segments import OtherItems
from tests.helpers.tiny import FILTERS, filter_values, item_ids, item_names, tiny_bundle
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import InvalidInput
from twinspire.protos.filter_kinds import parse_value
from twinspire.protos.hybrid.fusion import FusionQuery
from twinspire.serving.filters.columns import Work
from twinspire.serving.filters.expression import where
from twinspire.serving.filters.plan import Plan
from twinspire.serving.segments.built import BuiltSegment
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.growing import GrowingSegment
from twinspire.serving.segments.packed_items import EncodedItem, packed_hit
from twinspire.serving.segments.searcher import Segment
from twinspire.serving.segments.vector_index import FoundPassing, Neighbours, Vectors, none_of

ITEMS = 200
DELETED = [*range(0, ITEMS, 7)]
INDEXES: Mapping[str, IndexParameters] = {
    "exact": IndexParameters("ip", 16, 100, 64, exact=True),
    "hnsw": IndexParameters("ip", 16, 200, 200),
}
CHEAP = where.price < 30


def built(folder: Path) -> BuiltSegment:
    return BuiltSegment.load(folder, bundle.read(folder), Catalogue)


def growing(folder: Path) -> GrowingSegment:
    """The items of a bundle as live items, beside a catalogue of two others; each was written twice."""
    same = built(folder)
    earlier: Any = OtherItems(2)
    segment = GrowingSegment(BuiltSegment(same.manifest, same.index, earlier, same.columns, same.fusion))
    assert same.fusion is not None
    vectors, terms = same.index.vectors(slice(None)), map(same.fusion.index.weights, item_names(ITEMS))
    lexical = [numbers.tobytes() + weights.tobytes() for numbers, weights in terms]
    for version in (0, 1):
        segment.apply(
            [
                EncodedItem(
                    version * ITEMS + n + 1,
                    item_id,
                    hit=packed_hit(item_id, same.fields(n), parts=2),
                    values=json.dumps(_parsed(values)).encode(),
                    vector=vector.tobytes(),
                    terms=lexical[n],
                )
                for n, (item_id, vector, values) in enumerate(
                    zip(item_ids(ITEMS), vectors, filter_values(ITEMS), strict=True)
                )
            ]
        )
    return segment


def _parsed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: parse_value(FILTERS[name], value, name) for name, value in values.items()}


class World:
    """A segment, some of whose items are deleted, and what it must find."""

    def __init__(self, segment: Segment, bundle_segment: BuiltSegment) -> None:
        self.segment = segment
        assert bundle_segment.fusion is not None
        self.terms = bundle_segment.fusion.index.terms
        vectors = bundle_segment.index.vectors(slice(None))
        ids = item_ids(ITEMS)
        for n in DELETED:
            assert segment.delete(ids[n]) is not None
            assert segment.delete(ids[n]) is None
        self.visible = [n for n in range(ITEMS) if n not in DELETED]
        self.vectors = {ids[n]: vectors[n] for n in self.visible}
        self.prices = {ids[n]: filter_values(ITEMS)[n].get("price") for n in self.visible}
        self.queries = vectors[[3, 0, 50, 7]]  # two of them are deleted

    def best(self, query: Vectors, k: int, passes: Callable[[Any], bool] | None = None) -> list[float]:
        scores = [
            float(vector @ query)
            for item_id, vector in self.vectors.items()
            if passes is None or passes(self.prices[item_id])
        ]
        return sorted(scores, reverse=True)[:k]


@pytest.fixture(scope="module", params=["exact", "hnsw", "growing"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("segment")
    index = INDEXES.get(request.param, INDEXES["exact"])
    made = tiny_bundle(folder, ITEMS, filters=FILTERS, is_hybrid=True, index=index)
    plain = built(made)
    return World(growing(made) if request.param == "growing" else plain, plain)


def search(segment: Segment, queries: Vectors, k: int, exact: bool = False) -> Neighbours:
    if isinstance(segment, BuiltSegment):
        return (segment.exact if exact else segment.search)(queries, k)
    return (segment.exact if exact else segment.search)(queries, k, none_of(len(queries)))


def search_passing(
    segment: Segment, queries: Vectors, k: int, passing: Any, approximate: bool = True
) -> FoundPassing:
    if isinstance(segment, BuiltSegment):
        return segment.search_passing(queries, k, passing, approximate)
    nothing = none_of(len(queries)), [Plan.EMPTY] * len(queries)
    return segment.search_passing(queries, k, passing, nothing)


def is_visible(segment: Segment, row: int) -> bool:
    return segment.find(segment.item_id(row)) == row


@pytest.mark.parametrize("k", [1, 10, ITEMS, ITEMS + 50])
def test_the_nearest_visible_items(world: World, k: int) -> None:
    segment = world.segment
    for exact in (False, True):
        found = search(segment, world.queries, k, exact)
        assert found.rows.shape == (4, min(k, len(world.visible)))
        for query, rows, scores in zip(world.queries, *found, strict=True):
            np.testing.assert_allclose(scores, world.best(query, k), atol=1e-5)
            assert all(is_visible(segment, row) for row in rows.tolist())
            assert len({*rows.tolist()}) == len(rows)


def test_one_query_is_answered_as_in_a_batch(world: World) -> None:
    batch = search(world.segment, world.queries, 5)
    for n, query in enumerate(world.queries):
        np.testing.assert_allclose(
            search(world.segment, query[None], 5).scores[0], batch.scores[n], atol=1e-5
        )


def test_hits_of_the_bundle_are_merged_with_those_of_live_items(world: World) -> None:
    if isinstance(world.segment, BuiltSegment):
        return
    earlier = Neighbours(np.array([[9001, 9002]] * 4), np.array([[2.0, -2.0]] * 4, np.float32))
    for search in (world.segment.search, world.segment.exact):
        found = search(world.queries, 5, earlier)
        for query, rows, scores in zip(world.queries, *found, strict=True):
            np.testing.assert_allclose(scores, [2.0, *world.best(query, 4)], atol=1e-5)
            assert rows[0] == 9001


@pytest.mark.parametrize("k", [1, 10, ITEMS])
@pytest.mark.parametrize("approximate", [True, False])
def test_a_filter_is_never_short(world: World, k: int, approximate: bool) -> None:
    def cheap(price: Any) -> bool:
        return price is not None and price < 30

    segment = world.segment
    passing = segment.filter(CHEAP, Work())
    count = sum(map(cheap, world.prices.values()))
    assert 0 < count < len(world.visible)
    assert np.count_nonzero(passing.mask) == count
    found, plans = search_passing(segment, world.queries, k, passing, approximate)
    assert Plan.EMPTY not in plans
    first = 0 if isinstance(segment, BuiltSegment) else segment.first_row
    for query, rows, scores in zip(world.queries, *found, strict=True):
        np.testing.assert_allclose(scores, world.best(query, k, cheap), atol=1e-5)
        assert passing.mask[rows - first].all()
        assert all(is_visible(segment, row) for row in rows.tolist())


def test_a_filter_that_nothing_passes_finds_nothing(world: World) -> None:
    passing: Any = world.segment.filter(where.price > 1e9, Work())
    found, plans = search_passing(world.segment, world.queries, 5, passing)
    assert (found.rows.shape, plans) == ((4, 0), [Plan.EMPTY] * 4)
    if not isinstance(world.segment, BuiltSegment):
        earlier = Neighbours(np.full((4, 1), 9001), np.full((4, 1), 2.0, np.float32)), [Plan.GRAPH] * 4
        assert world.segment.search_passing(world.queries, 5, passing, earlier) is earlier


def test_a_filter_that_does_not_fit_is_refused_by_its_place(world: World) -> None:
    with pytest.raises(InvalidInput, match="unknown filter field"):
        passing = world.segment.filter(where.nothing == 1, Work())
        assert passing.mask is None  # a growing segment evaluates it when it is first used


def test_rows_lead_to_their_items(world: World) -> None:
    segment, ids = world.segment, item_ids(ITEMS)
    first = 0 if isinstance(segment, BuiltSegment) else segment.first_row
    for n, item_id in enumerate(ids):
        row = segment.find(item_id)
        assert (row is None) is (n in DELETED)
        if row is not None:
            assert first <= row < first + segment.count
            assert segment.item_id(row) == item_id
            assert segment.fields(row)["name"] == item_names(ITEMS)[n]
            np.testing.assert_allclose(segment.vectors([row])[0], world.vectors[item_id], atol=1e-6)
    assert segment.find("nothing") is None
    assert segment.delete("nothing") is None


@pytest.mark.parametrize("weight", [None, 1.0])
def test_items_that_hold_the_words_of_a_query_are_ranked(world: World, weight: float | None) -> None:
    segment, name = world.segment, item_names(ITEMS)[5]
    query = FusionQuery(world.terms(name), world.queries[0], [], [])
    rows, scores, _, lexical, _ = segment.rank(query, 10, None, weight)
    assert "item-005" in [segment.item_id(row) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert all(is_visible(segment, row) for row in rows)
    assert max(lexical) > 0
    cheap: Any = segment.filter(CHEAP, Work())
    first = 0 if isinstance(segment, BuiltSegment) else segment.first_row
    assert all(cheap.mask[row - first] for row in segment.rank(query, 10, cheap, weight)[0])
