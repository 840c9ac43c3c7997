"""Compares two answers to one query up to rounding.

Float32 sums depend on the order of their terms. That order changes with the size of a batch, the number of
threads and the processor, so bit-identical scores are guaranteed only for the same call in the same
process. Otherwise the guarantee is the same items in the same order, with scores within `SCORE_TOLERANCE`.
Items whose scores are closer than that are tied: they may change places, and either may be the last of the
k items.

The product of two unit vectors is a sum of D terms. Two orders of these terms give sums that differ by at
most 2 * D * 2^-24, which is 6e-5 for D = 512, reached only if all rounding errors have the
same sign. Measured errors are much smaller: the largest against float64 is 1.1e-6, over batches of 1 to 500
queries, D of 32 to 512, 1 and 2 threads and the OpenBLAS kernels of five processors. Two such errors and the
rounding of a tower stay well within the tolerance.

An HNSW graph is searched approximately. Where several paths through it are tied, rounding can decide whether
an item is found at all, and `difference` then reports the item. This needs a catalogue full of ties and a
search narrow enough to miss items.

The dense layers of `int8_dynamic` and `int8_static`, variants of bundles of earlier versions, round their
inputs to int8. A difference in the last bit of such an input can become a whole step of the int8 scale, so no
tolerance of this size holds for them.
"""

from collections.abc import Sequence

from protos.bundle import Manifest

SCORE_TOLERANCE = 1e-5  # absolute; relative to the largest score of an answer if that exceeds 1

PARTS = ("dense", "lexical", "prior")  # of the score of a hybrid bundle's hit, as `Hit` names them

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


def is_bounded(manifest: Manifest) -> bool:
    """Whether `SCORE_TOLERANCE` holds for the scores of a bundle."""
    return manifest.precision.query not in ("int8_dynamic", "int8_static")
