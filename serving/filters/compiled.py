"""Filters that have been evaluated on a bundle, and a cache of them for later requests."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from protos.errors import InvalidInput
from serving.filters.columns import FilterColumns, Work
from serving.filters.expression import FILTER_FIELD, MAX_DEPTH, Filter, is_deeper

MAX_BYTES = 64 << 20  # of the filters that one bundle keeps
MAX_CONTENT = 64 << 10  # bytes of a filter that is kept; a larger one is rarely used again
CONTENT_BYTES = 12  # of memory for each byte of a filter: its tree of Python objects
KEY_BYTES = 32  # of a digest, which no client can make equal for different filters
ENTRY_BYTES = 1024  # of memory of a filter, without its rows
ROW_BYTES = 10  # a row in the bitmap, in `rows` and in its array
SUBSET_FROM_USE = 2  # uses of a filter from which on a subset is worth its cost
SUBSET_PART = 2  # a subset takes at most this part of the memory


class SubsetIndex(Protocol):
    """What a filter needs of `serving.retrieval.vector_index.VectorIndex`."""

    def subset_bytes(self, count: int) -> int:
        """The memory of a subset."""

    def subset(self, rows: Any) -> Any:
        """Some items, prepared to be searched exactly."""


class CompiledFilter:
    """A filter, and the rows of a bundle's items that pass it.

    Args:
        expression: the filter; overlays evaluate it on their own items.
        passing: rows that pass.
        item_count: N, of the bundle.
        reserve: reserves the bytes of a subset of the index; without it no subset is made.

    Attributes:
        nbytes: of memory at most.
        may_have_subset: whether a comparison of all items that pass makes a subset of the index, with which
            it takes less time from then on.
    """

    def __init__(
        self,
        expression: Filter,
        passing: BitMap,
        item_count: int,
        reserve: Callable[["CompiledFilter", int], bool] | None = None,
    ) -> None:
        self.expression = expression
        self.passing = passing
        self.item_count = item_count
        self.count = len(passing)
        self.nbytes = ENTRY_BYTES + item_count + ROW_BYTES * self.count
        self.may_have_subset = False
        self._reserve = reserve
        self._uses = 0
        self._counts_uses = True
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

    def count_of(self, rows: Iterable[int]) -> int:
        """How many of these rows pass."""
        return sum(row in self.passing for row in rows)

    @property
    def row_mask(self) -> npt.NDArray[np.bool_]:
        """Whether an answer may hold each row of the catalogue, live items included."""
        return self.mask

    def used(self) -> None:
        """Count a use; a filter that is used again may have a subset of the index."""
        if not self._counts_uses:
            return
        with self._lock:
            self._uses += 1
            if self._uses == SUBSET_FROM_USE and self._reserve is not None:
                self.may_have_subset = True

    @contextmanager
    def counted(self, counts: bool) -> Iterator[None]:
        """Count the uses within the block, or do not.

        Args:
            counts: False where the search repeats one that has been counted.
        """
        self._counts_uses = counts
        try:
            yield
        finally:
            self._counts_uses = True

    def subset(self, index: SubsetIndex) -> Any:
        """The items that pass as a subset of their index; None if there is none, and none is to be made."""
        if self._subset is None and self.may_have_subset and self._reserve is not None:
            with self._lock:
                if self._subset is not None:
                    pass  # another thread has made it
                elif self._reserve(self, index.subset_bytes(self.count)):
                    self._subset = index.subset(self.rows)
                else:
                    self.may_have_subset = False
        return self._subset


class ItemFilters:
    """Evaluates filters on the items of a bundle; safe to call from several threads.

    Args:
        columns: of the items.
        max_bytes: of the filters that are kept; the least recently used are dropped.
    """

    def __init__(self, columns: FilterColumns, max_bytes: int = MAX_BYTES) -> None:
        self.columns = columns
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, CompiledFilter] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def compile(
        self, expression: Filter, content: bytes | None = None, work: Work | None = None
    ) -> CompiledFilter:
        """The filter with the rows that pass it.

        Args:
            expression: the filter.
            content: bytes that are equal for equal filters only; by default the expression as a text.
            work: counts the work of evaluating it, if it is not kept.

        Raises:
            InvalidInput: the filter does not fit the fields, as `FilterColumns.evaluate`.
        """
        content = content_of(expression) if content is None else content
        found = self.kept(content)
        if found is None:
            found = self.evaluated(expression, work)
            self._keep(content, found)
        return found

    def evaluated(self, expression: Filter, work: Work | None = None) -> CompiledFilter:
        """The filter with the rows that pass it; not kept."""
        passing = self.columns.evaluate(expression, work)
        return CompiledFilter(expression, passing, self.columns.count, self.reserve)

    def kept(self, content: bytes) -> CompiledFilter | None:
        """The filter with this content, if it is still kept."""
        if len(content) > MAX_CONTENT:
            return None
        key = _key(content)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        return found

    def _keep(self, content: bytes, compiled: CompiledFilter) -> None:
        if len(content) > MAX_CONTENT:
            return
        key = _key(content)
        with self._lock:
            compiled.nbytes += CONTENT_BYTES * len(content)
            if key in self._kept or compiled.nbytes > self._max_bytes:
                return
            self._kept[key] = compiled
            self._bytes += compiled.nbytes
            self._shrink()

    def reserve(self, compiled: CompiledFilter, size: int) -> bool:
        """Reserve the bytes of a subset for a filter that is kept; returns whether there is room for it."""
        with self._lock:
            if size > self._max_bytes // SUBSET_PART or all(
                each is not compiled for each in self._kept.values()
            ):
                return False
            compiled.nbytes += size
            self._bytes += size
            self._shrink()
        return True

    def _shrink(self) -> None:
        """Drop the least recently used filters until the others fit."""
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


def content_of(expression: Filter) -> bytes:
    """The expression as bytes; other than `==`, its text distinguishes True from 1.

    Raises:
        InvalidInput: it has more than `MAX_DEPTH` filters inside each other.
    """
    if is_deeper(expression, MAX_DEPTH):
        raise InvalidInput(FILTER_FIELD, f"expected at most {MAX_DEPTH} filters inside each other, got more")
    return repr(expression).encode("utf-8", "surrogatepass")


def _key(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()
