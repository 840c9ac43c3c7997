"""Queries of similar length are encoded together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from twinspire.serving.retrieval.encoder import MAX_PADDING, MAX_QUERIES, length_batches


@given(st.lists(st.integers(0, 300), min_size=1, max_size=3 * MAX_QUERIES))
def test_each_query_is_in_one_batch_with_little_padding(lengths: list[int]) -> None:
    parts = length_batches(lengths)
    assert sorted(place for part in parts for place in part) == [*range(len(lengths))]
    each = [[lengths[place] for place in part] for part in parts]
    for part in each:
        assert 1 <= len(part) <= MAX_QUERIES
        assert len(part) * max(part) - sum(part) <= MAX_PADDING
    if len(parts) > 1:
        assert all(max(part) <= min(after) for part, after in pairwise(each))
