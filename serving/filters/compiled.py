"""Filters that have been evaluated on the items of a bundle, and a cache of them for later requests."""

import hashlib
import threading
from collections import OrderedDict
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from twinspire.protos.errors import InvalidInput
from twinspire.serving.filters.columns import Work
from twinspire.serving.filters.expression import FILTER_FIELD, MAX_DEPTH, Filter

MAX_BYTES = 64 << 20  # of the filters that one bundle keeps
MAX_CONTENT = 64 << 10  # bytes of a filter that is kept; a larger one is rarely used again
CONTENT_BYTES = 12  # of memory for each byte of a filter: its tree of Python objects
ENTRY_BYTES = 1024  # of memory of a filter, without its rows
ROW_BYTES = 10  # a row in the bitmap, in `rows` and in its array
KEY_BYTES = 32  # of a digest, which no client can make equal for different filters


class Filterable(Protocol):
    """What the cache needs of a segment, or of several (`serving/segments/`)."""

    def filter(self, expression: Filter, work: Work) -> Any:
        """The rows that pass a filter, also after changes.

        They have `nbytes`, their memory at most, and `mask`: whether each row passes and is visible.
        """


class PassingRows:
    """The rows of N items of a built segment that pass a filter, whether they are deleted or not.

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


class CompiledFilter:
    """A filter, and the rows that pass it.

    Args:
        expression: the filter.
        passing: those rows, as their segment has them.

    Attributes:
        nbytes: of memory at most.
    """

    def __init__(self, expression: Filter, passing: Any) -> None:
        self.expression, self.passing = expression, passing
        self.nbytes: int = passing.nbytes


class FilterCache:
    """Evaluates filters, and keeps some; safe to call from several threads.

    Args:
        items: that pass or not.
        max_bytes: of the filters that are kept; the least recently used are dropped.
    """

    def __init__(self, items: Filterable, max_bytes: int = MAX_BYTES) -> None:
        self._items = items
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
            work = Work() if work is None else work
            found = CompiledFilter(expression, self._items.filter(expression, work))
            self._keep(content, found)
        return found

    def kept(self, content: bytes) -> CompiledFilter | None:
        """The filter with this content for another request, if it is still kept."""
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
            while self._bytes > self._max_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


def content_of(expression: Filter) -> bytes:
    """The expression as bytes; other than `==`, its text distinguishes True from 1.

    Raises:
        InvalidInput: its filters are nested too deeply for a text.
    """
    try:
        return repr(expression).encode("utf-8", "surrogatepass")
    except RecursionError:
        reason = f"expected at most {MAX_DEPTH} filters inside each other, got more"
        raise InvalidInput(FILTER_FIELD, reason) from None


def _key(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()
