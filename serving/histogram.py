"""Fixed buckets of a histogram: their bounds, the cells they take, and what a scrape shows of them.

A histogram of B bounds takes B + 2 cells: what fell into each bucket, those above the last bound among
them, and at last the sum of all that was observed. The count is the sum of the buckets. So a histogram is
valid whenever it is read, even where its process was killed between two of its cells.
"""

from collections.abc import Sequence
from itertools import accumulate

# 1, 2, 5 in each decade from 10 us to 10 s: what falls into one bucket differs by a factor of 2.5 at most.
SECONDS = (*(float(f"{digit}e{power}") for power in range(-5, 1) for digit in (1, 2, 5)), 10.0)
SIZES = tuple(float(1 << power) for power in range(11))  # 1 to 1024 queries


def width(bounds: Sequence[float]) -> int:
    """Cells that a histogram with these bounds takes."""
    return len(bounds) + 2


def cumulative(bounds: Sequence[float], cells: Sequence[float]) -> tuple[list[tuple[float, float]], float]:
    """What a scrape shows.

    Args:
        bounds: upper bounds, ascending; a value equal to a bound is below it.
        cells: of the histogram, `width(bounds)` of them.

    Returns:
        For each bound, infinity as the last, how many were at most as large; and the sum.
    """
    *buckets, total = cells
    return list(zip((*bounds, float("inf")), accumulate(buckets), strict=True)), total
