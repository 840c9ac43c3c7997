"""Live items that the bundle does not hold are the least popular, and found without a walk over all."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers.serving.segments import segment_of
from twinspire.serving.segments.growing import GrowingSegment
from twinspire.serving.segments.items import Items
from twinspire.serving.segments.packed_items import EncodedItem, EncodedKind
from twinspire.serving.segments.searcher import Searcher

BUNDLE, WRITTEN = 50, 3000


class Counting:
    """A bundle's catalogue without popularity, and how often an item was looked up in it."""

    def __init__(self) -> None:
        self.ids = [f"item-{n}" for n in range(BUNDLE)]
        self.ranking, self.shares = [*range(BUNDLE)], [0.0] * BUNDLE
        self.knows_popular = False
        self.looked_up = 0

    def __len__(self) -> int:
        return BUNDLE

    def find(self, item_id: str) -> int | None:
        self.looked_up += 1
        return self.ids.index(item_id) if item_id in self.ids else None


def record(sequence: int, item_id: str, kind: EncodedKind = EncodedKind.ITEM) -> EncodedItem:
    return EncodedItem(sequence, item_id, kind, b"", b"", bytes(8) if kind is EncodedKind.ITEM else b"")


@pytest.fixture
def made() -> SimpleNamespace:
    """Items 0 to 9 of the bundle were written again, and 3,000 new ones, of which 0 is deleted."""
    base = Counting()
    built = segment_of(base)
    live = GrowingSegment(built, 2)
    live.apply([record(n + 1, f"item-{n}") for n in range(10)])
    live.apply([record(n + 11, f"new-{n}") for n in range(WRITTEN)])
    live.apply([record(WRITTEN + 11, "new-0", EncodedKind.DELETED), record(WRITTEN + 12, "new-1")])
    return SimpleNamespace(base=base, live=live, items=Items(Searcher(built, live)))


def test_new_items_that_pass_come_last_without_a_walk_over_the_live_items(made: SimpleNamespace) -> None:
    first = BUNDLE + 10
    passing = np.zeros(BUNDLE + made.live.count, np.bool_)
    passing[[3, 40, BUNDLE + 3, first, first + 1, first + 2, first + 7, first + 9]] = True
    passing[-1] = True  # the second version of new-1
    made.base.looked_up = 0
    rows, shares = made.items.popular(10, {first + 7}, passing)
    assert rows == [BUNDLE + 3, 40, first + 2, first + 9, first + WRITTEN]
    assert shares == [0.0] * 5
    assert made.items.popular(4, set(), passing)[0] == [BUNDLE + 3, 40, first + 2, first + 7]
    assert made.base.looked_up == 0


def test_new_items_are_the_least_popular(made: SimpleNamespace) -> None:
    made.base.looked_up = 0
    first = BUNDLE + 10
    rows, _ = made.items.popular(BUNDLE + 3, {first + 3})
    assert rows == [*range(BUNDLE, BUNDLE + 10), *range(10, BUNDLE), first + 2, first + 4, first + 5]
    assert len(made.items.popular(10_000, ())[0]) == BUNDLE + WRITTEN - 1
    assert made.base.looked_up == 0
