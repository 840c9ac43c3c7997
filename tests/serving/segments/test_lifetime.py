"""A bundle that is served no more is freed at once: no circle of references keeps its index."""

import gc
import weakref
from pathlib import Path

import pytest

from tests.helpers.serving.live import LiveWorld
from tests.helpers.tiny import FILTERS, item_names, tiny_bundle
from twinspire.serving.filters.expression import where
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever


@pytest.mark.parametrize("is_live", [False, True], ids=["bundle", "live items"])
def test_an_index_is_freed_with_its_retriever(tmp_path: Path, is_live: bool) -> None:
    folder = tiny_bundle(tmp_path / "made", 300, filters=FILTERS, is_hybrid=True)
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
