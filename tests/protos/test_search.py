"""The search width of the graph, and exact search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.search import BLOCK, EXACT_SHARE, exact_search, graph_width, top_k


@pytest.mark.parametrize(
    ("k", "ef_search", "width"),
    [(10, 64, 10), (32, 64, 32), (33, 64, 66), (10, 10, 20), (100, 64, 200)],
)
def test_the_search_is_at_least_twice_as_wide_as_k(k: int, ef_search: int, width: int) -> None:
    assert graph_width(k, ef_search, 100_000) == width
    assert max(ef_search, width) >= 2 * k


@pytest.mark.parametrize("k", [1, 10, 500])
def test_a_small_catalogue_is_searched_exactly(k: int) -> None:
    assert graph_width(k, 2 * k, EXACT_SHARE * k) is None
    assert graph_width(k, 2 * k, EXACT_SHARE * k + 1) == k
    assert graph_width(k, 2 * k, 1) is None


@pytest.mark.parametrize("k", [1, 10, 500])
def test_an_exact_bundle_does_not_use_the_graph(k: int) -> None:
    assert graph_width(k, 64, 1_000_000) is not None
    assert graph_width(k, 64, 1_000_000, exact=True) is None


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


def test_equal_scores_are_ordered_by_row() -> None:
    scores = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], np.float32)
    assert top_k(scores, 3).tolist() == [[1, 3, 0], [0, 1, 2]]
    assert top_k(scores, 5).tolist() == [[1, 3, 0, 2, 4], [0, 1, 2, 3, 4]]


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
