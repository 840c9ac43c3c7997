"""The check of a history finds each kind of violation, and nothing where all is well."""

import random

import pytest

from tests.load.live import history
from tests.load.live.history import Seen, Write, check, check_last

WRITES = [
    Write(1, "a", "a one"),
    Write(2, "b", "b one"),
    Write(3, "a", "a two"),
    Write(4, "c", None),  # an item of the bundle
    Write(5, "b", None),
    Write(6, "b", "b two"),
]
BASE = (("x", "x"), ("y", "y"))  # of the bundle, never written


def violations(*seen: Seen) -> dict[str, int]:
    """The violations that are found in answers, by name."""
    found = check(WRITES, seen, fewest=2).found
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize(
    "seen",
    [
        Seen(0, 0, 2, BASE),
        Seen(0, 0, 2, (("c", "c"), *BASE)),
        Seen(1, 1, 2, (("a", "a one"), ("c", "c"))),
        Seen(1, 2, 2, (("a", "a one"), ("b", "b one"))),
        Seen(3, 3, 2, (("a", "a two"), ("b", "b one"))),
        Seen(0, 5, 2, (("a", "a two"), ("x", "x"))),
        Seen(6, 9, 2, (("a", "a two"), ("b", "b two")), "b", "b two"),
        Seen(0, 4, 2, BASE, "b", "b two"),  # it was not written yet
    ],
)
def test_a_right_answer(seen: Seen) -> None:
    assert violations(seen) == {}


@pytest.mark.parametrize(
    ("seen", "violation"),
    [
        (Seen(0, 4, 2, (("c", "c"), ("x", "x"))), history.DELETED),
        (Seen(0, 5, 2, (("b", "b one"), ("x", "x"))), history.DELETED),
        (Seen(0, 3, 2, (("a", "a one"), ("x", "x"))), history.STALE),
        (Seen(0, 6, 2, (("b", "b one"), ("x", "x"))), history.STALE),
        (Seen(0, 1, 2, (("a", "anything"), ("x", "x"))), history.STALE),
        (Seen(0, 2, 2, (("a", "a two"), ("x", "x"))), history.AHEAD),
        (Seen(0, 0, 2, (("b", "b one"), ("x", "x"))), history.AHEAD),
        (Seen(0, 5, 2, (("b", "b two"), ("x", "x"))), history.AHEAD),
        (Seen(3, 2, 2, (("a", "a one"), ("x", "x"))), history.EARLY),
        (Seen(0, 0, 2, (("x", "x"), ("x", "x"))), history.DUPLICATE),
        (Seen(0, 0, 2, (("x", "x"),)), history.SHORT),
        (Seen(0, 6, 2, BASE, "b", "b two"), history.MISSED),
    ],
)
def test_a_wrong_answer(seen: Seen, violation: str) -> None:
    assert violations(seen) == {violation: 1}


@pytest.mark.parametrize(
    "changed",
    [
        {"a": (1, "a one")},  # the last write was lost
        {"a": (3, "a one")},
        {"b": (6, None)},
        {"c": (4, "c")},  # came back
        {"d": (7, "d")},  # an item without an acknowledged write
    ],
)
def test_a_catalogue_that_is_not_as_it_was_written(changed: dict[str, tuple[int, str | None]]) -> None:
    stored: dict[str, tuple[int, str | None]] = {"a": (3, "a two"), "b": (6, "b two"), "c": (4, None)}
    verdict = check(WRITES, [], 2)
    check_last(verdict, WRITES, stored)
    assert not verdict.found
    check_last(verdict, WRITES, {**stored, **changed})
    assert verdict.found == {history.LOST: 1}


def test_writes_and_answers_in_any_order() -> None:
    """Answers that a plain model gives are right, whatever the order in which they were recorded."""
    draw = random.Random(0)
    state: dict[str, str | None] = {}
    writes, seen = [], []
    for sequence in range(1, 2000):
        item_id = f"item-{draw.randrange(40)}"
        stamp = f"text {sequence}" if draw.random() < 0.7 else None
        writes.append(Write(sequence, item_id, stamp))
        state[item_id] = stamp
        live = [(each, stamp) for each, stamp in state.items() if stamp is not None]
        hits = tuple(draw.sample(live, min(5, len(live))))
        seen.append(Seen(draw.randrange(sequence + 1), sequence, 5, hits))
    draw.shuffle(writes)
    draw.shuffle(seen)
    verdict = check(writes, seen, fewest=0)
    assert not verdict.found
    shifted = [each._replace(sequence=each.sequence - 100) for each in seen if each.sequence > 1000]
    assert check(writes, shifted, fewest=0).found[history.AHEAD] > 100
    shifted = [each._replace(sequence=each.sequence + 100) for each in seen if each.sequence < 1500]
    found = check(writes, shifted, fewest=0).found
    assert found[history.STALE] > 100
    assert found[history.DELETED] > 100
