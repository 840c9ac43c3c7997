"""The segment of a bundle whose items are in a collection on another server, and how that is read.

The segment has nothing of each item. The row of an item is the item itself, a `RemoteItem`, with the display
fields that the server returned. Filters are expressions of the server. Searches wait for the server, so the
event loop leaves them to other threads (`engine/remote_calls.py`).

`protos/vector_databases/` has the databases; export writes and drops their collections. A collection never
changes: each version of a bundle has one of its own, so a swap of bundles is a swap of collections.

Field names of a bundle never become part of a filter's expression: a collection calls its fields `f0`, `f1`
and so on, in ascending order of the names. Engines write the conditions on one field, and quote strings;
numbers, booleans and times are formatted from their values.
"""

import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import InvalidInput, Unavailable
from twinspire.protos.filter_kinds import KINDS
from twinspire.protos.vector_databases.database import (
    Syntax,
    VectorDatabase,
    check_collection,
    collection_name,
    database_of,
    ef_of_search,
)
from twinspire.serving.filters.columns import FilterColumns, Work
from twinspire.serving.filters.compiled import ENTRY_BYTES
from twinspire.serving.filters.expression import AllOf, AnyOf, Equals, Filter, In, Not, Present, Range
from twinspire.serving.filters.kinds import COMPARISONS
from twinspire.serving.filters.plan import Plan
from twinspire.serving.segments.vector_index import NOT_FINITE, FoundPassing, Neighbours, Vectors

SECONDS = 5.0  # that a search takes at most
_OPERATORS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """An item of a collection, which takes the place of a row: equal to every other one with its id.

    Args:
        fields: its display fields, if they were read.
        vector: float32 (D,), if it was read.
    """

    item_id: str
    fields: Mapping[str, str] = field(default_factory=dict, compare=False)
    vector: Vectors | None = field(default=None, compare=False, repr=False)


RemoteHit = tuple[RemoteItem, float]  # and its inner product


_until: ContextVar[float] = ContextVar("until")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let all reads of this thread within the block take so long together."""
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def seconds_left() -> float:
    """The time that a read may take now: what `within` has left, or `SECONDS`.

    Raises:
        Unavailable: there is none.
    """
    left = _until.get(time.monotonic() + SECONDS) - time.monotonic()
    if left <= 0:
        raise Unavailable("the server of the index has not answered in time")
    return left


class RemoteCollection:
    """The items of one bundle on another server; for any thread. No read takes longer than `seconds_left`.

    All methods but `expression` raise Unavailable if the server does not answer in time, and BundleDamaged if
    the collection is missing, or is not the bundle's. The first of them connects, and so comes after a fork.

    Args:
        manifest: of a bundle with an index of one of the `REMOTE_KINDS`.

    Attributes:
        max_k: items that one search can return.

    Raises:
        ConfigError: the environment does not name the server.
        PackageMissing: the kind needs a package that is not installed.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._database = database_of(manifest.index.kind)()
        self.name, self.max_k = collection_name(manifest.bundle_version), self._database.max_k
        self._manifest, self._lock, self._is_checked = manifest, threading.Lock(), False

    def expression(self, node: Filter) -> str:
        """A filter that fits the bundle's fields, as the server evaluates it; empty text passes all items."""
        return filter_expression(self._database.syntax, node, self._manifest.filters)

    def search(
        self, vectors: Vectors, k: int, expression: str = "", is_exact: bool = False
    ) -> list[list[RemoteHit]]:
        """As `VectorDatabase.search`."""
        database, ef = self._checked(), ef_of_search(self._manifest.index, k)
        found = database.search(self.name, vectors, k, ef, expression, is_exact, seconds_left())
        return [
            [(RemoteItem(item_id, json.loads(display)), score) for item_id, display, score in hits]
            for hits in found
        ]

    def get(self, item_ids: Sequence[str]) -> dict[str, RemoteItem]:
        """The items with these ids, with fields and vectors, by id; unknown ones are left out."""
        found = self._checked().read(self.name, [*dict.fromkeys(item_ids)], seconds=seconds_left())
        return {
            item_id: RemoteItem(item_id, json.loads(row.display), vector)
            for item_id, (row, vector) in found.items()
        }

    def count(self, expression: str) -> int:
        """How many items pass."""
        return self._checked().count(self.name, expression, seconds_left())

    def _checked(self) -> VectorDatabase:
        """The database, after the first read has checked the collection; others wait for that."""
        if self._is_checked:
            return self._database
        if not self._lock.acquire(timeout=seconds_left()):
            raise Unavailable(
                f"{self._database.title} does not answer: another search waits for a connection"
            )
        try:
            if not self._is_checked:
                check_collection(self._database, self.name, self._manifest, seconds_left())
                self._is_checked = True
        finally:
            self._lock.release()
        return self._database


class RemoteFilter:
    """A filter as an expression of the server."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.nbytes = ENTRY_BYTES + len(expression)


class RemoteSegment:
    """The items of a bundle on another server; has the methods of `BuiltSegment` that do not delete.

    Errors of reading the collection are those of `RemoteCollection`.

    Args:
        collection: its N items; the first read checks them.

    Attributes:
        count: N.
    """

    has_graph = False  # each search is as approximate as the server's index
    knows_popular = False
    fusion = None

    def __init__(self, manifest: Manifest, collection: RemoteCollection) -> None:
        self.manifest, self.collection, self.count = manifest, collection, manifest.count
        self._no_items = FilterColumns.from_values(manifest.filters, [])

    def search(self, vectors: Vectors, k: int) -> Neighbours:
        """As `BuiltSegment.search`, of any vectors, items included."""
        return _neighbours(self._found(vectors, min(k, self.count), ""))

    exact = search  # the server's index decides

    def filter(self, expression: Filter, work: Work) -> RemoteFilter:
        """The filter as an expression of the server; arguments and errors as of `BuiltSegment.filter`."""
        self._no_items.evaluate(expression, work)  # raises if it does not fit the fields
        return RemoteFilter(self.collection.expression(expression))

    def search_passing(
        self, vectors: Vectors, k: int, passing: RemoteFilter, approximate: bool
    ) -> FoundPassing:
        """As `BuiltSegment.search_passing`; the server's index decides how approximate it is."""
        found = self._found(vectors, min(k, self.count), passing.expression)
        return _neighbours(found), [Plan.GRAPH if hits else Plan.EMPTY for hits in found]

    def expected_cost(self, k: int, passing: RemoteFilter) -> int:
        """The work of a search in this process: none."""
        return 0

    def vectors(self, rows: Sequence[RemoteItem]) -> Vectors:
        """The vectors of items that `find` or `find_all` has found, float32 (R, D)."""
        return np.stack([row.vector for row in rows if row.vector is not None])

    def find(self, item_id: str) -> Any:
        """The item with an id; None if the collection holds none."""
        return self.find_all([item_id])[0]

    def find_all(self, item_ids: Sequence[str]) -> list[Any]:
        """As `find`, of each id."""
        found = self.collection.get(item_ids) if item_ids else {}
        return [*map(found.get, item_ids)]

    def rows(self, item_ids: Iterable[str]) -> set[RemoteItem]:
        """The items with these ids, whether the collection holds them or not."""
        return {RemoteItem(item_id) for item_id in item_ids}

    def current(self, rows: frozenset[Any]) -> frozenset[Any]:
        """As `BuiltSegment.current`."""
        return rows

    def item_id(self, row: RemoteItem) -> str:
        """The id of an item."""
        return row.item_id

    def fields(self, row: RemoteItem) -> dict[str, str]:
        """The display fields of an item."""
        return dict(row.fields)

    def _found(self, vectors: Vectors, k: int, expression: str) -> list[list[RemoteHit]]:
        """For each query the `k` best items that pass, or all where fewer pass.

        Raises:
            ArithmeticError: a vector is not finite.
            InvalidInput: the server returns fewer items than `k` at most.
            Unavailable: it does not answer in time, or misses items even where it compares all.
        """
        if not np.isfinite(vectors).all():
            raise ArithmeticError(NOT_FINITE)
        if k > (most := self.collection.max_k):
            raise InvalidInput("k", f"expected at most {most}, with the items that are left out, got {k}")
        found = self.collection.search(vectors, k, expression)
        if all(len(hits) == k for hits in found):
            return found
        wanted = min(k, self.collection.count(expression)) if expression else k
        short = [n for n, hits in enumerate(found) if len(hits) < wanted]
        if short:  # an index may not reach all items that pass
            compared = self.collection.search(vectors[short], k, expression, is_exact=True)
            for n, hits in zip(short, compared, strict=True):
                if len(hits) < wanted:
                    raise Unavailable(f"the server of the index returned {len(hits)} of {wanted} items")
                found[n] = hits
        return found


def filter_expression(syntax: Syntax, node: Filter, kinds: Mapping[str, str]) -> str:
    """The expression of a filter.

    Args:
        node: a filter that `FilterColumns.evaluate` accepts.
        kinds: filter field -> type, of the bundle.
    """
    if isinstance(node, Not):
        return f"not ({filter_expression(syntax, node.filter, kinds)})"
    if isinstance(node, AllOf | AnyOf):
        word = " and " if isinstance(node, AllOf) else " or "
        return word.join(f"({filter_expression(syntax, each, kinds)})" for each in node.filters)
    assert isinstance(node, Equals | In | Range | Present)
    n, kind = sorted(kinds).index(node.field), kinds[node.field]
    if isinstance(node, Present):
        return syntax.present(n) if node.present else syntax.absent(n)
    if isinstance(node, Range):
        bound = COMPARISONS[kind].bound
        assert bound is not None  # the filter was accepted
        tests = [_within(syntax, f"f{n}", name, bound(value, name)) for name, value in node.bounds()]
    else:
        values = [node.value] if isinstance(node, Equals) else node.values
        found = (_value(syntax, kind, value) for value in dict.fromkeys(values))
        literals = [text for text in found if text is not None]
        tests = [syntax.any_of(n, kind, literals) if literals else syntax.never]
    return " and ".join([syntax.present(n), *filter(None, tests)])


def _within(syntax: Syntax, name: str, side: str, bound: float) -> str:
    """A bound of a range; empty if each number is within it."""
    if math.isfinite(bound):
        return f"{name} {_OPERATORS[side]} {bound!r}"
    return "" if (bound < 0) is (side in ("at_least", "above")) else syntax.never


def _value(syntax: Syntax, kind: str, value: Any) -> str | None:
    """A value that an item may have; None if no item can have it."""
    if isinstance(value, str):
        return syntax.literal(value)
    found = COMPARISONS[kind].stored(value)
    if KINDS[kind].dtype is np.int8:
        return "true" if found else "false"
    return None if found is None or not math.isfinite(found) else repr(found)


def _neighbours(found: list[list[RemoteHit]]) -> Neighbours:
    """The hits of queries, as many of each, as arrays; the rows are the items themselves."""
    rows = np.empty((len(found), len(found[0])), object)
    for n, hits in enumerate(found):
        rows[n] = [item for item, _ in hits]
    return Neighbours(rows, np.array([[score for _, score in hits] for hits in found], np.float32))
