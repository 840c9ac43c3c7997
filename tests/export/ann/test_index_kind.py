"""A kind of index is found by its name, and returns what the service returns."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.export.ann.test_index import ITEMS, QUERIES
from twinspire.export import ann
from twinspire.export.ann.kinds.hnsw import TunedHnsw
from twinspire.protos.bundle import Score
from twinspire.protos.errors import BundleError
from twinspire.train.config.index import IndexConfig

COSINE = Score("cosine")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        BundleError, match=r"manifest\.json: index\.kind: expected one of hnsw, milvus, got 'remote'"
    ):
        ann.index_kind("remote")


def test_exact_search_needs_no_graph(console: Console, tmp_path: Path) -> None:
    tuned = ann.index_kind("hnsw").tune(ITEMS, QUERIES, IndexConfig(search="exact"), COSINE, console)
    assert isinstance(tuned.index, TunedHnsw)
    assert tuned.index.graph is None
    assert tuned.index.parameters.kind == "exact"
    np.testing.assert_array_equal(tuned.index.search(QUERIES, 7), ann.exact(QUERIES, ITEMS, 7))
    tuned.index.save(tmp_path)
    assert not [*tmp_path.iterdir()]
