"""The records that a query becomes on its way to the result.

Query -> PreparedQuery -> EncodedQueries (vectors and a QueryContext each) + SearchOptions -> SearchResult

`QueryForm` makes the values of a PreparedQuery.
"""

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import CategoryFeature, FeatureSpec, HistoryFeature, TextFeature, TimeFeature
from twinspire.protos.inputs.events import LARGEST_TIME, is_dated, without_times
from twinspire.protos.names import near
from twinspire.serving.filters.plan import Plan
from twinspire.serving.retrieval.answer import Basis, FusionMode

if TYPE_CHECKING:  # clients have no library of bitmaps
    from twinspire.serving.filters.compiled import CompiledFilter

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
        user: key of a user, whose recorded events the service puts before the history.

    Raises:
        TypeError: the history is one string, whose characters would count as ids.
        InvalidInput: an item id is no string, such as a number.
    """

    text: str | None = None
    history: tuple[str, ...] = ()
    features: Mapping[str, Value] = field(default_factory=dict)
    item_id: str | None = None
    history_times: tuple[float, ...] = ()
    user: str | None = None

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
        excluded: ids of items that are in no answer to it.
    """

    name: str
    values: Mapping[str, RawValue | None] | None
    own_row: int | None = None
    excluded: Collection[str] = ()


def text_is_required(features: Mapping[str, FeatureSpec]) -> bool:
    """Whether a query must have a text: the tower has a text feature, and no history in its place."""
    kinds = {spec.kind for spec in features.values()}
    return "text" in kinds and "history" not in kinds


def check_item_query(query: Query, name: str) -> None:
    """Refuse an `item_id` that comes with anything else.

    Raises:
        InvalidInput: text, history or features are given too.
    """
    for part in ("text", "history", "history_times", "features"):
        value = getattr(query, part)
        if value or value == "":
            raise InvalidInput(f"{name}.{part}", f"expected either {part} or an item_id, got both")


class QueryForm:
    """How the fields of a query fill the features of a query tower; computed once per bundle.

    Attributes:
        text, history: names of the features that the fields of these names fill; None if there is none.
        reads_times: whether the tower reads the times of a history.
        texts, others: names of the features that are texts, and of those that are not.
    """

    def __init__(self, features: Mapping[str, FeatureSpec]) -> None:
        self.features = dict(features)
        self.text = _slot(features, TextFeature, "text")
        positive = {name: spec for name, spec in features.items() if spec.kind != "negative_history"}
        self.history = _slot(positive, HistoryFeature, "history")
        self._time = _slot(features, TimeFeature, "time")
        spec = self.features[self.history] if self.history else None
        self.reads_times = isinstance(spec, HistoryFeature) and spec.times
        self.blank: dict[str, RawValue | None] = {
            name: "" if isinstance(spec, TextFeature) else None for name, spec in features.items()
        }
        self.texts = [name for name, spec in features.items() if isinstance(spec, TextFeature)]
        self.others = [name for name in features if name not in self.texts]
        self.needs_text = text_is_required(features)
        self._required = self.texts if self.needs_text else []
        self._only_text = self.text if self.needs_text and len(features) == 1 else None

    def values(self, query: Query, name: str) -> dict[str, RawValue | None]:
        """Feature name -> raw value, one for each feature of the query tower, as `blank` where absent.

        Args:
            query: one without an `item_id`.
            name: of the query in errors, such as `queries[3]`.

        Raises:
            InvalidInput: the query does not fit the tower; the field begins with `name`.
        """
        others = query.history or query.features or query.history_times
        if self._only_text and query.text is not None and not others:
            return {self._only_text: query.text}  # the usual query
        given: dict[str, RawValue] = {}
        if query.text is not None:
            given[self._feature_of(self.text, f"{name}.text")] = query.text
        if query.history:
            given[self._feature_of(self.history, f"{name}.history")] = list(query.history)
        for feature, value in query.features.items():
            given[feature] = self._checked(feature, value, given, name)
        if query.history_times:
            self._add_times(query, given, name)
        for feature in self._required:
            if feature not in given:
                field_name = f"{name}.text" if feature == self.text else f"{name}.features.{feature}"
                raise InvalidInput(field_name, "required by this bundle's query tower, but missing")
        return {**self.blank, **given}

    def _add_times(self, query: Query, given: dict[str, RawValue], name: str) -> None:
        """Join the history in `given` with its events' times, and add the query's time if it has none."""
        field_name, times = f"{name}.history_times", query.history_times
        if not self.reads_times or self.history is None:
            raise InvalidInput(
                field_name, f"the query tower reads no times of a history; {accepted_features(self.features)}"
            )
        if len(times) != len(query.history):
            raise InvalidInput(
                field_name,
                f"expected {len(query.history)}, one for each item of the history, or none, got {len(times)}",
            )
        for n, seconds in enumerate(times):
            if not abs(seconds) <= LARGEST_TIME and not math.isnan(seconds):
                raise InvalidInput(
                    f"{field_name}[{n}]", f"expected seconds since 1970, at most 1e12, got {seconds!r}"
                )
        known = [None if math.isnan(seconds) else seconds for seconds in times]
        given[self.history] = [*zip(query.history, known, strict=True)]
        if self._time is not None and self._time not in given:
            given[self._time] = time.time()

    def _feature_of(self, slot: str | None, field_name: str) -> str:
        """The feature that a field of the query fills, unless there is none."""
        if slot is None:
            kind = field_name.rpartition(".")[2]
            raise InvalidInput(field_name, f"no {kind} feature for it; {accepted_features(self.features)}")
        return slot

    def _checked(self, feature: str, value: Value, given: Mapping[str, RawValue], name: str) -> Value:
        field_name = f"{name}.features.{feature}"
        if feature not in self.features:
            meant = near(feature, self.features)
            raise InvalidInput(field_name, f"unknown feature; {accepted_features(self.features)}{meant}")
        spec = self.features[feature]
        if feature in given:
            raise InvalidInput(field_name, f"given twice, here and in {name}.{spec.kind}")
        refuse_nan(value, field_name)
        several = isinstance(spec, HistoryFeature) or (isinstance(spec, CategoryFeature) and spec.multi)
        return list(value) if several and not isinstance(value, str | float | int) else value


def _slot(features: Mapping[str, FeatureSpec], kind: type[FeatureSpec], name: str) -> str | None:
    found = [feature for feature, spec in features.items() if isinstance(spec, kind)]
    if name in found:
        return name
    return found[0] if len(found) == 1 else None


def refuse_nan(value: Value, field_name: str) -> None:
    """Refuse a number that is not one.

    Raises:
        InvalidInput: it is NaN.
    """
    if isinstance(value, float) and math.isnan(value):  # inside a tower NaN means "absent"
        raise InvalidInput(field_name, "expected a number, got NaN; leave it out where it is unknown")


def accepted_features(features: Mapping[str, FeatureSpec], side: str = "query") -> str:
    """The features of a tower with their kinds, as an error names them."""
    return f"the {side} tower takes " + ", ".join(
        f"{name} ({spec.kind})" for name, spec in sorted(features.items())
    )


class SearchOptions(NamedTuple):
    """Which items a query should find.

    Args:
        k: number of items.
        exclude: rows to leave out.
        exclude_history: leave out the items of the query's own history, too, and of its negative history.
        filter: leave out the items that do not pass.
        fusion: which scores rank the items.
        min_score: leave out the hits below, after all else; None for none.
    """

    k: int
    exclude: frozenset[int] = frozenset()
    exclude_history: bool = False
    filter: "CompiledFilter | None" = None
    fusion: FusionMode = FusionMode.DEFAULT
    min_score: float | None = None


NO_SEARCH = SearchOptions(0)  # the options of a query that is only encoded


@dataclass(frozen=True, slots=True)
class QueryContext:
    """What a search needs to know of a query besides its vector.

    Args:
        own_row: the row of the `item_id`; None for other queries.
        history_rows: rows of the items of its history and negative history that the catalogue holds.
        excluded_rows: rows to leave out whatever the options say.
        unknown_history: number of items in these histories that the tower does not know.
        basis: the part of the query by which items are found.
    """

    own_row: int | None = None
    history_rows: frozenset[int] = frozenset()
    excluded_rows: frozenset[int] = frozenset()
    unknown_history: int = 0
    basis: Basis = Basis.QUERY

    def excluded(self, options: SearchOptions) -> frozenset[int]:
        """The rows to leave out: the options' rows, the query's own item, and its history if they say so."""
        rows = options.exclude | self.excluded_rows
        if self.own_row is not None:
            rows |= {self.own_row}
        return rows | self.history_rows if options.exclude_history else rows


PLAIN = QueryContext()  # the context of most queries: without `item_id` and history


class EncodedQueries(NamedTuple):
    """Queries as vectors.

    Args:
        vectors: float32 (B, D); of unit length for an `item_id`, and where scores are cosines. Of queries of
            several vectors (B, K * D): the vectors of a query side by side (`protos/nearest/search.py`).
        encode_us: microseconds that encoding took.
        terms: numbers of the known terms of each query's text; empty if the bundle has no lexical index.
        unknown: how many other terms each text has; empty likewise.
    """

    vectors: Vectors
    contexts: tuple[QueryContext, ...]
    encode_us: int
    terms: tuple[list[int], ...] = ()
    unknown: tuple[int, ...] = ()


_OF_HITS = ("rows", "scores", "dense", "lexical", "prior")  # fields of a `SearchResult`


class Draw(NamedTuple):
    """How the order of an explored answer was drawn (`serving/served_log/sampling.py`).

    Args:
        rows: of the items drawn from, by falling score.
        scores: of these, rounded to float32.
        propensities: of each hit, the probability of its draw, given the hits before it; 1 for hits that
            were not drawn.
        temperature: of the draw.
    """

    rows: list[int]
    scores: list[float]
    propensities: list[float]
    temperature: float


class InterleavedHits(NamedTuple):
    """The hits of an answer of two bundles, best first.

    Args:
        challenger: version of the bundle beside the champion.
        teams: 0 for a hit of the champion, 1 for one of the challenger, None where a click says nothing.
    """

    item_ids: list[str]
    challenger: str
    teams: list[int | None]


class SearchResult(NamedTuple):
    """The items that one query has found.

    Args:
        rows: of the items, best first.
        plan: how the items that pass the filter were searched.
        dense: inner product of each; empty if the bundle has no lexical index.
        lexical: lexical score of each, 0 to 1; empty if the bundle has no lexical index.
        fusion: which scores ranked them; DEFAULT if the bundle has no lexical index.
        prior: of each, 0 to 1; empty if the bundle has none.
        weak: whether nothing matches well, as `Answer.weak` says.
        draw: how their order was drawn; None if they are in the order of their scores.
        interleaved: the hits that the client gets in place of these, if a challenger's are among them.
    """

    rows: list[int]
    scores: list[float]
    context: QueryContext
    plan: Plan = Plan.UNFILTERED
    dense: Sequence[float] = ()
    lexical: Sequence[float] = ()
    fusion: FusionMode = FusionMode.DEFAULT
    prior: Sequence[float] = ()
    weak: bool = False
    draw: Draw | None = None
    interleaved: InterleavedHits | None = None

    def at_least(self, score: float) -> "SearchResult":
        """The result without the hits below a score."""
        return self.first(sum(each >= score for each in self.scores))

    def first(self, count: int) -> "SearchResult":
        """The result with the first hits alone."""
        return self._replace(**{name: getattr(self, name)[:count] for name in _OF_HITS})

    def at(self, places: Sequence[int]) -> "SearchResult":
        """The result with the hits at these places, in their order."""
        moved: dict[str, Any] = {}
        for name in _OF_HITS:
            if part := getattr(self, name):
                moved[name] = [part[place] for place in places]
        return self._replace(**moved)

    @property
    def parts(self) -> tuple[Sequence[float], ...]:
        """The parts of the scores; none if the bundle has no lexical index."""
        if not self.dense:
            return ()
        return (self.dense, self.lexical, self.prior) if self.prior else (self.dense, self.lexical)
