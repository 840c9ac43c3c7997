"""A search finds what the store holds: no deleted item, no old version, no item twice, and k items."""

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.helpers.filter_oracle import FILTERS
from tests.helpers.serving.live import LiveWorld
from tests.helpers.tiny import FILTERS as SCHEMA
from tests.helpers.tiny import filter_values, item_names, tiny_bundle
from tests.serving.segments.test_live_filters import Shop
from twinspire.protos.errors import UnknownItem
from twinspire.serving.filters.expression import Filter, where
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.segments.packed_items import hit_of

IDS = [*(f"item-{n:03}" for n in range(0, 40, 3)), *(f"new-{n}" for n in range(12))]
TEXTS = [*item_names(60), "bavuti xelike mopy", "zo", "日本"]
VALUES = st.sampled_from([*filter_values(60), {}])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("small"), 40, filters=SCHEMA)


class LiveMachine(RuleBasedStateMachine):
    """Writes and searches in any order."""

    folder: Path
    base: Retriever

    @initialize()
    def begin(self) -> None:
        self.shop = Shop(self.folder, Path(mkdtemp(dir=self.folder.parent)), self.base, 40)
        self.world = self.shop.world
        self.synced = True

    @rule(item_id=st.sampled_from(IDS), text=st.sampled_from(TEXTS), values=VALUES)
    def put(self, item_id: str, text: str, values: Mapping[str, Any]) -> None:
        self.shop.put(item_id, text, values)
        self.synced = False

    @rule(item_id=st.sampled_from(IDS))
    def delete(self, item_id: str) -> None:
        self.shop.delete(item_id)
        self.synced = False

    @rule()
    def delete_most(self) -> None:
        for item_id in [*self.world.truth][3:]:
            self.shop.delete(item_id)
        self.synced = False

    @rule()
    def sync(self) -> None:
        assert self.world.sync() == {}
        self.synced = True

    @rule()
    def compact(self) -> None:
        encoder = self.world.encoder
        encoder._writer.compact()
        assert self.world.live.is_superseded
        self.world.live = self.world.live.reopened()

    @rule()
    def restart(self) -> None:
        self.world.encoder.close()

        self.world.encoder = self.world.feed.encoder(self.world.folder, self.world.place)
        self.world.live = self.world.open()
        self.sync()

    @precondition(lambda self: self.synced)
    @rule(
        texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5),
        k=st.sampled_from([1, 2, 10, 39, 60]),
        exclude=st.frozensets(st.sampled_from(IDS), max_size=4),
    )
    def search(self, texts: list[str], k: int, exclude: frozenset[str]) -> None:
        retriever, truth = self.world.live.retriever, self.world.truth
        encoded = retriever.encode([Query(text) for text in texts])
        answers = retriever.search_encoded(encoded, retriever.search_options(k, exclude))
        (alone,) = retriever.search([Query(texts[0])], k, exclude)
        for vector, answer in [*zip(encoded.vectors, answers, strict=True), (encoded.vectors[0], alone)]:
            ids = [hit.id for hit in answer.hits]
            assert len(ids) == len(set(ids)) == min(k, len(truth.keys() - exclude))
            assert truth.keys() - exclude >= set(ids)
            found = [hit.score for hit in answer.hits]
            np.testing.assert_allclose(found, self.world.expected(vector, k, exclude), atol=1e-5)
            np.testing.assert_allclose([truth[each] @ vector for each in ids], found, atol=1e-5)
            assert answer.sequence == self.world.feed.sequence()

    @precondition(lambda self: self.synced)
    @rule(
        texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3),
        node=FILTERS,
        k=st.sampled_from([1, 10, 60]),
        exclude=st.frozensets(st.sampled_from(IDS), max_size=3),
    )
    def search_with_a_filter(self, texts: list[str], node: Filter, k: int, exclude: frozenset[str]) -> None:
        self.shop.check(texts, node, k, exclude)

    @precondition(lambda self: self.synced)
    @rule(item_id=st.sampled_from(IDS), k=st.sampled_from([1, 10, 60]))
    def more_like_this(self, item_id: str, k: int) -> None:
        retriever, truth = self.world.live.retriever, self.world.truth
        if item_id not in truth:
            with pytest.raises(UnknownItem, match=item_id):
                retriever.search([Query(item_id=item_id)], k)
            return
        (answer,) = retriever.search([Query(item_id=item_id)], k)
        expected = self.world.expected(truth[item_id], k, frozenset({item_id}))
        np.testing.assert_allclose([hit.score for hit in answer.hits], expected, atol=1e-5)
        assert item_id not in {hit.id for hit in answer.hits}

    @invariant()
    def rows_lead_back_to_ids(self) -> None:
        items = self.world.live.retriever.items
        for item_id, row in self.world.live.segment.rows.items():
            if row is not None:
                assert items.item_id(row) == item_id
                assert hit_of(self.world.live.segment.hits[row - 40]).id == item_id


@pytest.mark.exhaustive
def test_any_writes_and_searches(small: Path) -> None:
    class Machine(LiveMachine):
        folder, base = small, Retriever.load(small)

    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=30, stateful_step_count=30, deadline=None)
    )


def test_histories_skip_what_the_tower_does_not_know_and_exclude_new_versions(
    watched: Path, tmp_path: Path
) -> None:
    world = LiveWorld(watched, tmp_path)
    world.put("new", "zozo")
    world.put("item-001", "bavuti")
    world.delete("item-002")
    world.sync()
    query = Query(history=("item-001", "new", "item-002", "item-003"))
    retriever = world.live.retriever
    (answer,) = retriever.search([query], 1000, exclude_history=True)
    assert answer.unknown_history == 1
    assert {hit.id for hit in answer.hits} == world.truth.keys() - {"item-001", "new", "item-003"}
    (vector,) = retriever.encode([query]).vectors
    expected = world.expected(vector, 1000, frozenset({"item-001", "new", "item-003"}))
    np.testing.assert_allclose([hit.score for hit in answer.hits], expected, atol=1e-4)
    (popular,) = retriever.search([Query()], 1000)
    assert {hit.id for hit in popular.hits} == world.truth.keys()
    assert popular.hits[-1].id == "new"
    (like,) = retriever.search([Query(item_id="new")], 5)
    scores = world.expected(world.truth["new"], 5, frozenset({"new"}))
    np.testing.assert_allclose([hit.score for hit in like.hits], scores, atol=1e-5)


@pytest.mark.parametrize("is_live", [False, True], ids=["bundle", "live items"])
def test_an_index_is_freed_with_its_retriever(tmp_path: Path, is_live: bool) -> None:
    folder = tiny_bundle(tmp_path / "made", 300, filters=SCHEMA, is_hybrid=True)
    gc.collect()
    gc.disable()
    try:
        retriever = Retriever.load(folder)
        index = weakref.ref(retriever.built.index)
        if is_live:
            world = LiveWorld(folder, tmp_path / "live", retriever)
            world.put("new", item_names(300)[3])
            world.delete("item-004")
            assert world.sync() == {}
            retriever = world.live.retriever
            world.encoder.close()
            del world
        for _ in range(3):  # the second use of a filter makes a subset of the index
            retriever.search([Query(item_names(300)[5])], 5, filter=where.price < 30)
            retriever.search([Query(item_names(300)[5])], 5)
        assert index() is not None
        del retriever
        assert index() is None
    finally:
        gc.enable()
