"""A kind of index is found by its name, and returns what the service returns."""

import numpy as np
import pytest
from rich.console import Console

from tests.export.ann.test_index import ITEMS, QUERIES
from twinspire.export import ann
from twinspire.export.ann.kinds.hnsw import TunedHnsw
from twinspire.protos.bundle import IndexParameters, Score
from twinspire.protos.errors import BundleError
from twinspire.train.config.index import IndexConfig

COSINE = Score("cosine")
NOTHING = [np.empty(0, np.int64)] * len(QUERIES)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        BundleError, match=r"manifest\.json: index\.kind: expected one of hnsw, milvus, got 'remote'"
    ):
        ann.rebuild(ITEMS, IndexParameters(kind="remote"), COSINE, threads=1)


def test_exact_search_needs_no_graph_to_be_evaluated() -> None:
    index = ann.rebuild(ITEMS, IndexParameters("ip", 8, 40, 20, 0, exact=True), COSINE, threads=1)
    assert isinstance(index, TunedHnsw)
    assert index.graph is None
    np.testing.assert_array_equal(index.search(QUERIES, 7, NOTHING), ann.exact(QUERIES, ITEMS, 7))


def test_seen_items_are_not_returned() -> None:
    index = ann.rebuild(ITEMS, IndexParameters("ip", 16, 100, 100, 0), COSINE, threads=1)
    assert ann.mean_recall(index, ITEMS, QUERIES, 10) > 0.9
    seen = list(index.search(QUERIES, 3, NOTHING))
    for rows, hidden in zip(index.search(QUERIES, 10, seen), seen, strict=True):
        assert not {*rows.tolist()} & {*hidden.tolist()}
        assert len({*rows.tolist()}) == 10


def test_a_tuned_index_is_rebuilt_by_its_parameters(console: Console) -> None:
    config = IndexConfig(m=8, ef_construction=40, search="graph", threads=1)
    tuned = ann.index_kind(config.kind).tune(ITEMS, QUERIES, config, COSINE, console)
    assert tuned.index.parameters.kind == "hnsw"
    again = ann.rebuild(ITEMS, tuned.index.parameters, COSINE, threads=1)
    np.testing.assert_array_equal(
        again.search(QUERIES, 10, NOTHING), tuned.index.search(QUERIES, 10, NOTHING)
    )
