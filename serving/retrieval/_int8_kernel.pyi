"""`int8_kernel.c`, compiled."""

from typing import Any

def near(
    upper: Any,
    lower: Any,
    scales: Any,
    spreads: Any,
    query: Any,
    rows: Any,
    k: int,
    margin: float,
    level: str | None = None,
    /,
) -> bytes:
    """The candidates' rows, ascending int64.

    Args:
        upper: uint8 (N, W): of each copy, the upper 4 bits of the coordinates n and n + W in byte n.
        lower: uint8 (N, W): the lower 4 bits, likewise. Coordinates are 128 higher than in int8.
        scales: float32 (N,): what restores each copy.
        spreads: uint8 (N,): the distance of the lower 4 bits from 7.5, as the head of `int8_kernel.c` says.
        query: int8 (2 W,).
        rows: to search, ascending int64 (R,); None: all.
        k: items wanted, at least 1, at most R.
        margin: how far below the k-th highest value a candidate's may be.
        level: of instructions, one of `levels()`; the first by default.

    Raises:
        ValueError: an array has another type or shape, or gaps; rows do not ascend from 0 to N - 1; `k`,
            `margin` or `level` is outside its bounds.
    """

def levels() -> list[str]:
    """The levels of instructions that this processor has, the fastest first."""
