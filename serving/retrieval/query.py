"""The records that a query becomes on its way to the result.

Query -> PreparedQuery -> EncodedQueries (vectors and a QueryContext each) + SearchOptions -> SearchResult
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidInput
from protos.inputs.events import is_dated, without_times
from serving.filters.plan import Plan
from serving.retrieval.answer import Basis, FusionMode

if TYPE_CHECKING:  # clients have no library of bitmaps
    from serving.filters.compiled import CompiledFilter

Value = str | float | Sequence[str]
RawValue = Value | Sequence[tuple[str, float | None]]  # the second: a history of item ids with their times
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Query:
    """One query.

    Args:
        text: value of the query tower's only text feature, or of the one named `text`.
        history: item ids, oldest first; value of the query tower's only history feature, or of the one named
            `history`. Ids that the tower does not know are skipped.
        features: values of the query tower's features, by name; a feature without a value is absent.
        item_id: "more like this": the item's own vector is the query; no other field may be given.
        history_times: seconds since 1970 of the history's events, one for each item, for a query tower that
            reads them; NaN for one that is not known, and empty if none is. If it is given and the features
            have no time, the query's time is that of the service's clock.

    Raises:
        TypeError: the history is one string, whose characters would count as ids.
        InvalidInput: an item id is no string, such as a number.
    """

    text: str | None = None
    history: tuple[str, ...] = ()
    features: Mapping[str, Value] = field(default_factory=dict)
    item_id: str | None = None
    history_times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.history or self.history.__class__ is not tuple:  # most queries have an empty one
            check_item_ids(self.history, "history")
        if self.item_id is not None:
            check_item_ids((self.item_id,), "item_id")


def refuse_lone_string(value: object, name: str, expected: str) -> None:
    """Refuse one string in place of several values, because it would be read as a sequence of characters.

    Args:
        name: of the value in the error.
        expected: what the values are, in the plural.

    Raises:
        TypeError: it is a string.
    """
    if isinstance(value, str | bytes):
        raise TypeError(f"{name}: expected a sequence of {expected}, got one string: {value!r}")


def check_item_ids(values: Iterable[Any], name: str, expected: str = "item ids as strings") -> None:
    """Refuse ids that are no strings: the catalogue holds strings, so a number would be an unknown id.

    Args:
        name: of the value in the error.
        expected: what the values are.

    Raises:
        TypeError: it is one string.
        InvalidInput: an id is no string.
    """
    refuse_lone_string(values, name, "item ids")
    for each in values:
        if not isinstance(each, str):
            is_number = isinstance(each, int | float | np.number) and math.isfinite(each)
            cure = f'; write "{int(each) if each == int(each) else each}"' if is_number else ""
            raise InvalidInput(name, f"expected {expected}, got {each}{cure}")


def example_query(example: Mapping[str, Value | None]) -> Query:
    """One of the manifest's examples, feature name -> raw value, as a query."""
    features = {name: value for name, value in example.items() if value is not None}
    dated = next((name for name, value in features.items() if is_dated(value)), None)
    if dated is None:
        return Query(features=features)
    items, times = without_times(features.pop(dated))  # type: ignore[arg-type]
    return Query(
        history=tuple(items),
        features=features,
        history_times=tuple(math.nan if time is None else time for time in times),
    )


class PreparedQuery(NamedTuple):
    """A query that fits the bundle, ready to be encoded.

    Args:
        name: of the query in errors, such as `queries[3]`.
        values: feature of the query tower -> raw value; None for an `item_id`.
        own_row: the row of the `item_id`; None for other queries.
    """

    name: str
    values: Mapping[str, RawValue | None] | None
    own_row: int | None = None


class SearchOptions(NamedTuple):
    """Which items a query should find.

    Args:
        k: number of items.
        exclude: rows to leave out.
        exclude_history: leave out the items of the query's own history, too, and of its negative history.
        filter: leave out the items that do not pass.
        fusion: which scores rank the items.
    """

    k: int
    exclude: frozenset[int] = frozenset()
    exclude_history: bool = False
    filter: "CompiledFilter | None" = None
    fusion: FusionMode = FusionMode.DEFAULT

    def is_only(self, k: int) -> bool:
        """Whether a query without history needs the `k` nearest items and nothing is excluded."""
        return self.k == k and not self.exclude and self.filter is None

    @property
    def only_filter(self) -> "CompiledFilter | None":
        """The filter of a query without history, if nothing is excluded; else None."""
        return None if self.exclude else self.filter


NO_SEARCH = SearchOptions(0)  # the options of a query that is only encoded


@dataclass(frozen=True, slots=True)
class QueryContext:
    """What a search needs to know of a query besides its vector.

    Args:
        own_row: the row of the `item_id`; None for other queries.
        history_rows: rows of the items of its history and negative history that the catalogue holds.
        unknown_history: number of items in these histories that the tower does not know.
        basis: the part of the query by which items are found.
    """

    own_row: int | None = None
    history_rows: frozenset[int] = frozenset()
    unknown_history: int = 0
    basis: Basis = Basis.QUERY

    def excluded(self, options: SearchOptions) -> frozenset[int]:
        """The rows to leave out: the options' rows, the query's own item, and its history if they say so."""
        rows = options.exclude if self.own_row is None else options.exclude | {self.own_row}
        return rows | self.history_rows if options.exclude_history else rows


PLAIN = QueryContext()  # the context of most queries: without `item_id` and history


class EncodedQueries(NamedTuple):
    """Queries as vectors.

    Args:
        vectors: float32 (B, D); of unit length for an `item_id`, and where scores are cosines. Of queries of
            several vectors (B, K * D): the vectors of a query side by side (`protos/search.py`).
        encode_us: microseconds that encoding took.
        terms: numbers of the known terms of each query's text; empty if the bundle has no lexical index.
    """

    vectors: Vectors
    contexts: tuple[QueryContext, ...]
    encode_us: int
    terms: tuple[list[int], ...] = ()


class SearchResult(NamedTuple):
    """The items that one query has found.

    Args:
        rows: of the items, best first.
        plan: how the items that pass the filter were searched.
        dense: inner product of each; empty if the bundle has no lexical index.
        lexical: lexical score of each, 0 to 1; empty if the bundle has no lexical index.
        fusion: which scores ranked them; DEFAULT if the bundle has no lexical index.
        prior: of each, 0 to 1; empty if the bundle has none.
    """

    rows: list[int]
    scores: list[float]
    context: QueryContext
    plan: Plan = Plan.UNFILTERED
    dense: Sequence[float] = ()
    lexical: Sequence[float] = ()
    fusion: FusionMode = FusionMode.DEFAULT
    prior: Sequence[float] = ()

    @property
    def parts(self) -> tuple[Sequence[float], ...]:
        """The parts of the scores that the bundle has; of one with a lexical index."""
        return (self.dense, self.lexical, self.prior) if self.prior else (self.dense, self.lexical)
