"""The score of an item for a query of several vectors, and the best items of what each vector finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.interests import best, each_vector, paired_products, products

D = 4


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
    rows, values = best(np.unique(np.concatenate(each)), catalogue[np.unique(np.concatenate(each))], query, k)
    assert values.tolist() == [scores[row] for row in expected]
    assert len({*rows.tolist()}) == len(rows) == min(k, items)
    assert [scores[row] for row in rows] == values.tolist()
    everything, _ = best(np.arange(items), catalogue, query, k)
    assert everything.tolist() == expected  # equal products are ordered by row


@pytest.mark.parametrize("interests", [1, 3])
def test_products_are_those_of_the_nearest_vector(interests: int) -> None:
    queries, items = drawn(0, 7, interests * D), drawn(1, 7, D)
    expected = np.array(
        [[max(item @ q for q in query.reshape(-1, D)) for item in items] for query in queries]
    )
    np.testing.assert_array_equal([products(items, query) for query in queries], expected)
    np.testing.assert_array_equal(paired_products(queries, items), expected.diagonal())
