"""The rows of a built segment that pass a filter, and vectors of them that lie side by side."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from twinspire.serving.filters.expression import Filter

ENTRY_BYTES = 1024  # of memory of a filter, without its rows
ROW_BYTES = 10  # a row in the bitmap, in `rows` and in its array

Reserve = Callable[[int], bool]  # bytes -> whether there is room for them


class SubsetIndex(Protocol):
    """What a filter needs of `serving.index.vector_index.VectorIndex`."""

    def subset_bytes(self, count: int) -> int:
        """The memory of a subset."""

    def subset(self, rows: Any) -> Any:
        """Some items, prepared to be searched exactly."""


class PassingRows:
    """A filter, and the rows of N items that pass it, whether they are deleted or not.

    Args:
        expression: the filter.
        passing: rows that pass.
        item_count: N.
        reserve: reserves the bytes of a subset of the index; without it no subset is made.

    Attributes:
        nbytes: of memory at most.
    """

    def __init__(
        self,
        expression: Filter,
        passing: BitMap,
        item_count: int,
        reserve: Reserve | None = None,
    ) -> None:
        self.expression = expression
        self.passing = passing
        self.item_count = item_count
        self.count = len(passing)
        self.nbytes = ENTRY_BYTES + item_count + ROW_BYTES * self.count
        self._is_used_again = False
        self._reserve = reserve
        self._lock = threading.Lock()
        self._subset: Any = None

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

    @property
    def may_have_subset(self) -> bool:
        """Whether a comparison of all items that pass makes a subset of the index, or has made one."""
        return self._is_used_again and self._reserve is not None

    def used_again(self) -> None:
        """Allow a subset of the index, which is worth its cost for a filter that another request has."""
        self._is_used_again = True

    def subset(self, index: SubsetIndex) -> Any:
        """The items that pass as a subset of their index; None if there is none, and none is to be made."""
        if self._subset is None and self.may_have_subset:
            with self._lock:
                if self._subset is not None:
                    pass  # another thread has made it
                elif self._reserve is not None and self._reserve(index.subset_bytes(self.count)):
                    self._subset = index.subset(self.rows)
                else:
                    self._reserve = None
        return self._subset
