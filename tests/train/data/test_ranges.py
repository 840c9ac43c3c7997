"""Ranges that stand one after another."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from twinspire.train.data.ranges import concatenate_ranges, range_indices, range_starts


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4))))
def test_ranges_stand_one_after_another(ranges: list[tuple[int, int]]) -> None:
    begin, lengths = np.array(ranges, np.int64).reshape(-1, 2).T
    numbers = [[*range(start, start + length)] for start, length in ranges]
    assert concatenate_ranges(begin, lengths).tolist() == [each for some in numbers for each in some]
    assert range_indices(lengths).tolist() == [n for n, each in enumerate(numbers) for _ in each]
    for n, offset in enumerate(range_starts(lengths).tolist()):
        assert offset == sum(map(len, numbers[:n]))
