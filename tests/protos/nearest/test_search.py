"""The search width of the graph, exact search, and queries of several vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinspire.protos.nearest.search import (
    BLOCK,
    EXACT_SHARE,
    each_vector,
    exact_search,
    graph_width,
    largest_products,
    merge,
    paired_products,
    top_k,
)

D = 4  # of the vectors of queries that have several


@pytest.mark.parametrize(
    ("k", "ef_search", "width"),
    [(10, 64, 64), (32, 64, 64), (33, 64, 66), (10, 10, 20), (100, 64, 200)],
)
def test_the_search_is_at_least_twice_as_wide_as_k(k: int, ef_search: int, width: int) -> None:
    assert graph_width(k, ef_search, 100_000) == width


def test_where_few_items_pass_a_filter_they_are_compared() -> None:
    assert graph_width(10, 64, 100_000, 100_000) == graph_width(10, 64, 100_000, 25_000) == 64
    assert graph_width(10, 64, 100_000, 5_000) is None
    assert graph_width(10, 64, 100_000, 0) is None
    widths = [graph_width(10, 64, 100_000, passing) for passing in range(0, 100_001, 1000)]
    first = next(n for n, width in enumerate(widths) if width is not None)
    assert all(width is not None for width in widths[first:])


@pytest.mark.parametrize("k", [1, 10, 500])
def test_a_small_catalogue_is_searched_exactly(k: int) -> None:
    assert graph_width(k, 2 * k, EXACT_SHARE * 2 * k) is None
    assert graph_width(k, 2 * k, EXACT_SHARE * 2 * k + 1) == 2 * k
    assert graph_width(k, 2 * k, 1) is None


@pytest.mark.parametrize("asked", [1, BLOCK, BLOCK + 1, 40])
def test_exact_search_agrees_with_sorting_everything(asked: int) -> None:
    random = np.random.default_rng(0)
    items = random.standard_normal((300, 12)).astype(np.float32)
    queries = random.standard_normal((asked, 12)).astype(np.float32)
    rows, products = exact_search(queries, items, 20)
    order = np.argsort(-(queries.astype(np.float64) @ items.T.astype(np.float64)), axis=1)[:, :20]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(products, np.take_along_axis(queries @ items.T, order, axis=1), rtol=1e-5)
    assert exact_search(queries, items[:7], 20)[0].shape == (asked, 7)


@given(
    count=st.integers(1, 3000),
    k=st.integers(1, 60),
    different=st.sampled_from([1, 2, 30, 100_000]),
    gone=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 999),
)
@settings(deadline=None)
def test_the_highest_scores_are_those_of_sorting(
    count: int, k: int, different: int, gone: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, different, (2, count)).astype(np.float32)
    scores[random.random((2, count)) < gone] = -np.inf
    k = min(k, count)
    assert top_k(scores, k).tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()


@pytest.mark.parametrize("high", [0, 5, 10, 100])
def test_a_sample_that_misses_the_highest_scores_does_no_harm(high: int) -> None:
    """The highest scores are where the sample looks, so that its bound leaves too few, or nowhere there."""
    scores = np.random.default_rng(0).random((1, 64 * 400), np.float32)
    scores[0, : 64 * high : 64] += 2
    assert top_k(scores, 10).tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :10].tolist()
    scores = np.roll(scores, 1, axis=1)
    assert top_k(scores, 10).tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :10].tolist()


def drawn(seed: int, *shape: int) -> np.ndarray:
    """Of few values, so that products are often equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 1000),
    interests=st.integers(1, 4),
    items=st.integers(1, 60),
    k=st.integers(1, 70),
)
def test_merging_the_k_best_of_each_vector_gives_the_k_best_of_all(
    seed: int, interests: int, items: int, k: int
) -> None:
    catalogue, query = drawn(seed, items, D), drawn(seed + 1, interests * D)
    scores = [max(float(item @ vector) for vector in query.reshape(-1, D)) for item in catalogue]
    expected = sorted(range(items), key=lambda row: (-scores[row], row))[:k]
    each = [np.argsort(-(catalogue @ vector), kind="stable")[:k] for vector in each_vector(query[None], D)]
    rows, values = merge(np.concatenate([*each, [-1]]), catalogue.__getitem__, query, k)
    assert values.tolist() == [scores[row] for row in expected]
    assert len({*rows.tolist()}) == len(rows) == min(k, items)
    assert [scores[row] for row in rows] == values.tolist()
    everything, _ = merge(np.arange(items), catalogue.__getitem__, query, k)
    assert everything.tolist() == expected  # equal products are ordered by row


@pytest.mark.parametrize("interests", [1, 3])
def test_products_are_those_of_the_nearest_vector(interests: int) -> None:
    queries, items = drawn(0, 7, interests * D), drawn(1, 7, D)
    expected = np.array(
        [[max(item @ q for q in query.reshape(-1, D)) for item in items] for query in queries]
    )
    np.testing.assert_array_equal([largest_products(items, query) for query in queries], expected)
    np.testing.assert_array_equal(paired_products(queries, items), expected.diagonal())
