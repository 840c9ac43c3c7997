"""The live items of one bundle: what another thread sees of them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.helpers.serving.segments import OtherItems, segment_of
from twinspire.serving.segments.growing import FIRST_CAPACITY, GrowingSegment
from twinspire.serving.segments.packed_items import EncodedItem, EncodedKind


def records(first: int, count: int) -> list[EncodedItem]:
    return [
        EncodedItem(n, f"item-{n}", EncodedKind.ITEM, b"", b"", np.full(2, n, np.float32).tobytes())
        for n in range(first, first + count)
    ]


class Interrupted(GrowingSegment):
    """Its thread applies changes just when another thread reads `count`."""

    interrupt: Callable[[], None] | None = None

    def __getattribute__(self, name: str) -> Any:
        if name == "count" and (interrupt := super().__getattribute__("interrupt")) is not None:
            self.interrupt = None
            interrupt()
        return super().__getattribute__(name)


def test_vectors_that_another_thread_reads_are_all_rows_of_one_state() -> None:
    live = Interrupted(segment_of(OtherItems()), 2)
    live.apply(records(0, FIRST_CAPACITY))
    live.interrupt = lambda: live.apply(records(FIRST_CAPACITY, 10))  # needs a larger array
    found = live.row_vectors
    assert found[:, 0].tolist() == [*range(FIRST_CAPACITY + 10)]
