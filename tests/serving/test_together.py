"""Queries of about one length are encoded together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.together import MOST, PADDING, together


@given(st.lists(st.integers(0, 300), min_size=1, max_size=3 * MOST))
def test_each_query_is_in_one_part_and_little_is_padding(lengths: list[int]) -> None:
    parts = together(lengths)
    assert sorted(place for part in parts for place in part) == [*range(len(lengths))]
    each = [[lengths[place] for place in part] for part in parts]
    for part in each:
        assert 1 <= len(part) <= MOST
        assert len(part) * max(part) - sum(part) <= PADDING
    if len(parts) > 1:
        assert all(max(part) <= min(after) for part, after in pairwise(each))


def test_what_is_alike_stays_as_it_is() -> None:
    assert together([5, 9, 7]) == [[0, 1, 2]]
    assert together([0] * (MOST + 1)) == [[*range(MOST)], [MOST]]
    assert together([2 * PADDING, 1]) == [[1], [0]]
