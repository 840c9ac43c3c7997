"""Types of the compiled search; see kernel.c."""

from typing import Any

def search(
    codes: Any,
    scales: Any,
    vectors: Any,
    queries: Any,
    rows: Any,
    scores: Any,
    some: Any,
    links: Any,
    allowed: Any,
    k: int,
    ef: int,
    most_steps: int,
    max_residual: float,
    max_norm: float,
) -> int:
    """Write the best `k` rows and scores of each query, best first; rows of -1 where there are no more.

    It lets other threads run. Arrays are C-contiguous.

    Args:
        codes: int8 (N, L), L a multiple of 64 and at least D, zeros beyond D.
        scales: float32 (N,): codes times scales are about the vectors.
        vectors: float32 (N, D).
        queries: float32 (B, D).
        rows, scores: int64 and float32 (B, k), written.
        some: int64, rows of the items that are compared; None: all. Without links only.
        links: uint32 (N, W): the graph to search; None to compare all items, exactly.
        allowed: a byte for each item, whether the search in the graph may find it; None: all.
        ef: width of the search in the graph, at least `k`.
        most_steps: items whose links a search follows; one that needs more finds nothing. Below 0: any.
        max_residual, max_norm: largest |x - x'| and |x'| of a vector x without its padding and its code x'.

    Returns:
        The lowest number of items that a query has found.

    Raises:
        ValueError: the arrays do not fit each other.
    """

def choose(place: int) -> int:
    """Compute products of codes with another variant from now on; all give the same numbers.

    Args:
        place: of the variant: 0 is plain C, and later ones are faster. The fastest that the processor has
            takes the place of those beyond it, and of those below 0, and is the default.

    Returns:
        The place of the variant.
    """
