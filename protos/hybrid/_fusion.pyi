"""Types of the compiled search; see fusion.c."""

from typing import Any

def fuse(
    starts: Any,
    documents: Any,
    weights: Any,
    idf: Any,
    sums: Any,
    vectors: Any,
    vector: Any,
    mask: Any,
    terms: list[int],
    rows: list[int],
    scores: list[float],
    weight: float,
    prior_weight: float,
    most_terms: int,
    most_postings: int,
    most_found: int,
    k: int,
    is_tfidf: bool,
) -> tuple[list[int], list[float], list[float], list[float], list[float]]:
    """As `protos.hybrid.fusion.fuse_numpy`."""
