"""The graph is asked for as much as it takes, and not at all where it is no use."""

import pytest

from protos.beam import EXACT_SHARE, graph_width


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
