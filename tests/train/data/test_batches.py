"""Pairs without histories: every pair once, in an order that follows from the seed."""

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from twinspire.train.data.batches import batch_count, batches

Rows = npt.NDArray[np.int64]


def queries_of(count: int) -> Rows:
    """A query for each pair; several pairs share one."""
    return np.arange(count) // 3


@given(st.integers(2, 60), st.integers(2, 16))
def test_every_pair_occurs_once_in_an_epoch(count: int, size: int) -> None:
    queries = queries_of(count)
    found = list(batches(count, queries, size, (0, 0)))
    assert len(found) == batch_count(count, size)
    for batch in found:
        assert 2 <= len(batch.pairs) <= size
        assert batch.spans is None
        np.testing.assert_array_equal(batch.queries[batch.query], queries[batch.pairs])
    seen = np.concatenate([batch.pairs for batch in found])
    assert len(seen) == len({*seen}) == count - (count % size == 1)


def test_the_order_is_seeded_and_differs_between_epochs() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        found = batches(60, queries_of(60), 8, (seed, epoch))
        return [pair for batch in found for pair in batch.pairs.tolist()]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
