"""The rows of a built segment that pass a filter."""

from functools import cached_property

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

ENTRY_BYTES = 1024  # of memory of a filter, without its rows
ROW_BYTES = 10  # a row in the bitmap, in `rows` and in its array


class PassingRows:
    """A filter, and the rows of N items that pass it, whether they are deleted or not.

    Args:
        passing: rows that pass.
        item_count: N.

    Attributes:
        nbytes: of memory at most.
    """

    def __init__(self, passing: BitMap, item_count: int) -> None:
        self.passing = passing
        self.item_count = item_count
        self.count = len(passing)
        self.nbytes = ENTRY_BYTES + item_count + ROW_BYTES * self.count

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """The rows that pass, ascending (R,)."""
        return np.frombuffer(self.passing.to_array(), np.uint32).astype(np.int64)

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Whether each row passes (N,)."""
        mask = np.zeros(self.item_count, np.bool_)
        mask[self.rows] = True
        return mask
