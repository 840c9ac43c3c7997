"""A scan in int8 finds what exact search in float32 finds."""

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinspire.protos.search import exact_search
from twinspire.protos.vectors import Vectors
from twinspire.serving.index.int8_scan import Int8Scan

RNG = np.random.default_rng(0)


def vectors_of(kind: str, count: int = 3000, dimension: int = 24) -> Vectors:
    vectors = RNG.standard_normal((count, dimension)).astype(np.float32)
    if kind == "alike":  # int8 copies of most are equal
        vectors = vectors[:1] + 1e-3 * vectors
    elif kind == "repeated":
        vectors = vectors[RNG.integers(0, 40, count)]
    elif kind == "of many lengths":
        vectors *= np.exp(RNG.standard_normal((count, 1)) * 3).astype(np.float32)
    elif kind == "with one large coordinate":
        vectors[:, 3] *= 1000
    elif kind == "with zeros":
        vectors[::3] = 0
    return vectors


KINDS = ["usual", "alike", "repeated", "of many lengths", "with one large coordinate", "with zeros"]


@pytest.mark.parametrize("kind", KINDS)
@given(k=st.integers(1, 60), share=st.sampled_from([0.002, 0.1, 0.5, 1.0]), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_it_finds_the_best(kind: str, k: int, share: float, seed: int) -> None:
    vectors, random = vectors_of(kind), np.random.default_rng(seed)
    queries = random.standard_normal((3, vectors.shape[1])).astype(np.float32)
    rows = np.flatnonzero(random.random(len(vectors)) < share)
    k = min(k, len(rows))
    if k == 0:
        return
    scan = Int8Scan(vectors)
    _, expected = exact_search(queries, vectors[rows], k)
    for found, products in (scan.search(queries, k, rows), scan.subset(rows).search(queries, k)):
        np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-5 * np.abs(vectors).max())
        assert np.isin(found, rows).all()
        assert all(len({*each}) == k for each in found.tolist())
        own = np.einsum("bd,bkd->bk", queries, vectors[found])
        np.testing.assert_allclose(own, products, rtol=1e-4, atol=1e-4 * np.abs(vectors).max())


def test_few_items_are_compared_in_float32() -> None:
    vectors = vectors_of("usual", 20_000)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scan = Int8Scan(vectors)
    for query in vectors[:20]:
        assert 10 <= len(scan._candidates(query, 10, None)) < 1000


def test_equal_items_are_ordered_by_row() -> None:
    vectors = np.repeat(vectors_of("usual", 40), 50, axis=0)
    (found,), _ = Int8Scan(vectors).search(vectors[:1], 50)
    assert found.tolist() == [*range(50)]


def test_a_query_of_zeros_is_as_near_to_all() -> None:
    (found,), (products,) = Int8Scan(vectors_of("usual")).search(np.zeros((1, 24), np.float32), 5)
    assert (found.tolist(), products.tolist()) == ([0, 1, 2, 3, 4], [0.0] * 5)


def test_many_candidates_are_not_copied_at_once() -> None:
    scan = Int8Scan(np.ones((200_000, 32), np.float32))
    tracemalloc.start()
    (found,), _ = scan.search(np.ones((1, 32), np.float32), 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert peak < 200_000 * 32 * 4 / 2  # of a copy of all


def test_a_search_leaves_no_reference_behind() -> None:
    scan, query = Int8Scan(vectors_of("usual")), RNG.standard_normal((1, 24)).astype(np.float32)
    scan.search(query, 5)
    before = sys.getrefcount(None)
    for _ in range(200):
        scan.search(query, 5)
    assert abs(sys.getrefcount(None) - before) < 100
