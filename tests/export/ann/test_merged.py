"""Search for queries of several vectors before the export, as the service answers them."""

import numpy as np
import pytest

from tests.export.ann.test_index import ITEMS, QUERIES
from twinspire.export import ann
from twinspire.protos.bundle import IndexParameters, Score

COSINE = Score("cosine")
SEVERAL = QUERIES[: len(QUERIES) // 3 * 3].reshape(-1, 3 * QUERIES.shape[1])
PARAMETERS = {
    "exact": IndexParameters("ip", 8, 40, 20, 0, exact=True),
    "graph": IndexParameters("ip", 16, 200, 400, 0),
}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_the_best_items_of_all_vectors_are_found_without_those_seen(kind: str) -> None:
    index = ann.rebuild(ITEMS, PARAMETERS[kind], COSINE, threads=1)
    scores = (SEVERAL.reshape(-1, ITEMS.shape[1]) @ ITEMS.T).reshape(len(SEVERAL), 3, -1).max(axis=1)
    seen = [np.argsort(-each)[: n % 3] for n, each in enumerate(scores)]
    found = ann.search_merged(index, ITEMS, SEVERAL, 10, seen)
    for own, hidden, rows in zip(scores, seen, found, strict=True):
        own = own.copy()
        own[hidden] = -np.inf
        np.testing.assert_allclose(own[rows], np.sort(own)[::-1][:10], atol=1e-6)
        assert len({*rows.tolist()}) == 10


def test_queries_of_one_vector_are_searched_as_ever() -> None:
    index = ann.rebuild(ITEMS, PARAMETERS["graph"], COSINE, threads=1)
    nothing = [np.empty(0, np.int64)] * len(QUERIES)
    found = ann.search_merged(index, ITEMS, QUERIES, 10, nothing)
    np.testing.assert_array_equal(found, index.search(QUERIES, 10, nothing))
