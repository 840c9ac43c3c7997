"""Which differences between two answers are rounding, and which are reported."""

import math

import pytest

from tests.helpers.scores import Hits, difference
from twinspire.protos.nearest.scores import SCORE_TOLERANCE

CLOSE, FAR = 0.9 * SCORE_TOLERANCE, 1.1 * SCORE_TOLERANCE
EXPECTED: Hits = [("a", 0.9), ("b", 0.5), ("c", 0.5 - CLOSE), ("d", 0.1)]


@pytest.mark.parametrize(
    "found",
    [
        EXPECTED,
        [(item, score + CLOSE) for item, score in EXPECTED],
        [("a", 0.9), ("c", 0.5), ("b", 0.5 - CLOSE / 2), ("d", 0.1)],  # tied
        [*EXPECTED[:3], ("e", 0.1 - CLOSE)],  # tied with the last of the k items
    ],
    ids=["equal", "rounded", "tied items swapped", "another last item"],
)
def test_differences_that_rounding_explains_are_none(found: Hits) -> None:
    assert difference(EXPECTED, found) == ""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([*EXPECTED[:3]], "3 items, expected 4"),
        ([*EXPECTED, ("e", 0.1)], "5 items, expected 4"),
        ([("b", 0.9), ("a", 0.5), *EXPECTED[2:]], "place 1: b with score 0.9, expected with 0.5"),
        ([EXPECTED[1], EXPECTED[0], *EXPECTED[2:]], "place 1: b with score 0.5, expected a with 0.9"),
        ([("e", 0.9), *EXPECTED[1:]], "place 1: e with score 0.9 is not expected at all"),
        ([*EXPECTED[:3], ("d", 0.1 + FAR)], "place 4: d with score 0.100011, expected d with 0.1"),
        ([*EXPECTED[:3], ("d", 0.1 - FAR)], "place 4: d with score 0.099989, expected d with 0.1"),
        ([*EXPECTED[:3], ("d", math.nan)], "place 4: d with score nan, expected d with 0.1"),
        ([*EXPECTED[:2], EXPECTED[1], EXPECTED[3]], "place 3: b for the second time"),
    ],
    ids=[
        "an item less",
        "an item more",
        "items swapped, scores in place",
        "items swapped with their scores",
        "another item",
        "a score too high",
        "a score too low",
        "not a number",
        "an item twice",
    ],
)
def test_other_differences_are_reported(found: Hits, expected: str) -> None:
    assert difference(EXPECTED, found) == expected


def test_a_missing_item_is_reported_although_each_place_is_close() -> None:
    """The items below it move up by one place each, and each is tied with its neighbours."""
    ladder = [(f"item-{n}", 0.5 - n * CLOSE) for n in range(10)]
    found = [*ladder[1:], ("other", ladder[-1][1] - CLOSE / 20)]
    assert difference(ladder, found) == "item-0 with score 0.5 is missing"
    assert difference(ladder, [*ladder[:-1], ("other", ladder[-1][1])]) == ""


def test_the_tolerance_grows_with_scores_above_1() -> None:
    """As inner products of query vectors that are longer than 1 are."""
    expected = [("a", 40.0), ("b", 3.0)]
    assert difference(expected, [("a", 40.0 + 30 * SCORE_TOLERANCE), ("b", 3.0)]) == ""
    assert difference(expected, [("a", 40.0 + 50 * SCORE_TOLERANCE), ("b", 3.0)])
    assert difference([("a", -1.0), ("b", -40.0)], [("a", -1.0), ("b", -40.0 - 30 * SCORE_TOLERANCE)]) == ""
