"""Ranges of whole numbers, one after another, such as the histories of several queries in one array.

`compact` halves the memory of such numbers.
"""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def range_starts(lengths: Rows) -> Rows:
    """(R,): where each of R ranges begins, once they stand one after another."""
    return np.cumsum(lengths) - lengths


def concatenate_ranges(begin: Rows, lengths: Rows) -> Rows:
    """All numbers of R ranges, one range after another.

    Args:
        begin: (R,), the first number of each range.
        lengths: (R,), how many numbers each range has; they may be 0.
    """
    before = range_starts(lengths)
    return np.repeat(begin - before, lengths) + np.arange(int(lengths.sum()))


def range_indices(lengths: Rows) -> Rows:
    """(sum of lengths,): for each number of the concatenated ranges, the index of the range it is from."""
    return np.repeat(np.arange(len(lengths)), lengths)


def gather_ranges(values: Rows, begin: Rows, end: Rows) -> tuple[Rows, Rows]:
    """The values in R ranges of an array, one range after another.

    Args:
        begin: (R,), index of each range's first value.
        end: (R,), index after its last value.

    Returns:
        For each of these values the number of its range, and the value.
    """
    lengths = end - begin
    return range_indices(lengths), values[concatenate_ranges(begin, lengths)]


def compact(numbers: Rows) -> Rows:
    """The same numbers, in half the memory where int32 holds them."""
    small = (
        numbers.max(initial=0) <= np.iinfo(np.int32).max and numbers.min(initial=0) >= np.iinfo(np.int32).min
    )
    return numbers.astype(np.int32) if small else numbers
