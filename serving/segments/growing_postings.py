"""The terms of a growing segment's rows, by term; rows are only added, so that they ascend."""

from array import array

import numpy as np
import numpy.typing as npt

from serving.segments.encoded_item import EncodedItemsDamaged

Slots = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]
NO_SLOTS: Slots = np.empty(0, np.int32)
NO_WEIGHTS: Weights = np.empty(0, np.float32)
TERM_BYTES = 8  # for each term: its number and its weight


class GrowingPostings:
    """Postings of a growing segment's rows; for one thread."""

    def __init__(self) -> None:
        self._slots: dict[int, array[int]] = {}
        self._weights: dict[int, array[float]] = {}

    def add(self, slot: int, terms: bytes) -> None:
        """Add a row.

        Args:
            slot: higher than those before.
            terms: as `EncodedItem.terms`.

        Raises:
            EncodedItemsDamaged: they are not whole; nothing has been added.
        """
        if len(terms) % TERM_BYTES:
            raise EncodedItemsDamaged(f"{len(terms)} bytes of terms, expected {TERM_BYTES} for each")
        half = len(terms) // 2
        numbers, weights = np.frombuffer(terms[:half], np.int32), np.frombuffer(terms[half:], np.float32)
        for term, weight in zip(numbers.tolist(), weights.tolist(), strict=True):
            self._slots.setdefault(term, array("i")).append(slot)
            self._weights.setdefault(term, array("f")).append(weight)

    def of(self, term: int) -> tuple[Slots, Weights]:
        """The rows that hold a term, ascending, and the weight of each; copies."""
        slots = self._slots.get(term)
        if slots is None:
            return NO_SLOTS, NO_WEIGHTS
        return np.array(slots, np.int32), np.array(self._weights[term], np.float32)
