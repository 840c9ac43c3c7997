"""Compares two answers to one query up to rounding, as `protos/nearest/scores.py` promises them.

Items whose scores are closer than the tolerance are tied: they may change places, and either may be the last
of the k items.

An HNSW graph is searched approximately. Where several paths through it are tied, rounding can decide whether
an item is found at all, and `difference` then reports the item. This needs a catalogue full of ties and a
search narrow enough to miss items.

The dense layers of `int8_dynamic` and `int8_static`, variants of bundles of earlier versions, round their
inputs to int8. A difference in the last bit of such an input can become a whole step of the int8 scale, so no
tolerance of this size holds for them.
"""

from collections.abc import Sequence

from twinspire.protos.nearest.scores import SCORE_TOLERANCE

Hits = Sequence[tuple[str, float]]  # item ids and scores, best first


def difference(expected: Hits, found: Hits, tolerance: float = SCORE_TOLERANCE) -> str:
    """The first difference between two answers that rounding does not explain.

    Args:
        tolerance: largest difference between two scores of one item; relative to the largest absolute score
            in `expected` if that exceeds 1.

    Returns:
        The difference in words; empty if the answers are the same.
    """
    if len(expected) != len(found):
        return f"{len(found)} items, expected {len(expected)}"
    if not expected:
        return ""
    bound = tolerance * max(1.0, abs(expected[0][1]), abs(expected[-1][1]))
    scores, last = dict(expected), expected[-1][1]
    seen: set[str] = set()
    for place, ((item, score), (other, wanted)) in enumerate(zip(found, expected, strict=True), start=1):
        if item in seen:
            return f"place {place}: {item} for the second time"
        seen.add(item)
        if not abs(score - wanted) <= bound:  # NaN is not within the bound
            return f"place {place}: {item} with score {score:.7g}, expected {other} with {wanted:.7g}"
        own = scores.get(item)
        if own is None and not abs(score - last) <= bound:
            return f"place {place}: {item} with score {score:.7g} is not expected at all"
        if own is not None and not abs(score - own) <= bound:
            return f"place {place}: {item} with score {score:.7g}, expected with {own:.7g}"
    for item, score in expected:
        # The scores of this item and of the item in its place may each be off by the bound.
        if item not in seen and not score - last <= 2 * bound:
            return f"{item} with score {score:.7g} is missing"
    return ""
