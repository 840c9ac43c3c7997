"""The graph is asked for as much as it takes, and not at all where it is no use; exact search is exact."""

import numpy as np
import pytest

from protos.beam import BLOCK, EXACT_SHARE, exact_search, graph_width, nearest


@pytest.mark.parametrize(
    ("k", "ef_search", "width"),
    [(10, 64, 10), (32, 64, 32), (33, 64, 66), (10, 10, 20), (100, 64, 200)],
)
def test_the_beam_is_at_least_twice_as_wide_as_k(k: int, ef_search: int, width: int) -> None:
    assert graph_width(k, ef_search, 100_000) == width
    assert max(ef_search, width) >= 2 * k


@pytest.mark.parametrize("k", [1, 10, 500])
def test_a_small_catalogue_is_compared_with_as_a_whole(k: int) -> None:
    assert graph_width(k, 2 * k, EXACT_SHARE * k) is None
    assert graph_width(k, 2 * k, EXACT_SHARE * k + 1) == k
    assert graph_width(k, 2 * k, 1) is None


@pytest.mark.parametrize("k", [1, 10, 500])
def test_an_exact_bundle_asks_no_graph_at_all(k: int) -> None:
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


def test_among_equals_the_lower_row_is_first() -> None:
    scores = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], np.float32)
    assert nearest(scores, 3).tolist() == [[1, 3, 0], [0, 1, 2]]
    assert nearest(scores, 5).tolist() == [[1, 3, 0, 2, 4], [0, 1, 2, 3, 4]]
