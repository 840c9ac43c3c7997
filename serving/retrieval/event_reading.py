"""What the recorded events of a user add to a query, as the bundle was trained to read them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from twinspire.protos.features import HistoryFeature, TowerInputs
from twinspire.protos.inputs.event_types import EXCLUDES, HISTORY, EventTypes
from twinspire.serving.retrieval.query import Query, QueryForm

# Item id, seconds since 1970, type and value of an event; None where it has none, or it is not read.
EventRow = tuple[str, float | None, str, float | None]


class ResolvedQuery(NamedTuple):
    """A query without a user.

    Args:
        query: with the user's events in its history.
        excluded: ids of items that must not be in its answer.
    """

    query: Query
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventReading:
    """How the queries of one bundle take the events of a user.

    Args:
        known: items that the query tower knows in a history.
        longest: most items of a history that it reads; 0 if it takes none.
        reads_times: whether it reads when they were.
        is_distinct: whether no history of training holds an item twice; the first event of an item counts.
        types: which events count.
        feature: name of the query tower's history feature; None if there is none.
    """

    known: Mapping[str, int]
    longest: int
    reads_times: bool
    is_distinct: bool
    types: EventTypes
    feature: str | None = None

    @classmethod
    def of(cls, dataset: Mapping[str, Any], form: QueryForm, inputs: TowerInputs) -> "EventReading":
        """That of a bundle.

        Args:
            dataset: of its manifest.
            form, inputs: of its query tower.
        """
        spec = None if form.history is None else form.features[form.history]
        return cls(
            {} if form.history is None else inputs.rows(form.history),
            spec.longest if isinstance(spec, HistoryFeature) else 0,
            form.reads_times,
            dataset.get("repeats") == "first",
            EventTypes.of(dataset),
            form.history,
        )

    @property
    def reads_types(self) -> bool:
        """Whether types and values of events matter; if not, all make a history."""
        return bool(self.types.types) or self.types.has_label

    def resolved(self, query: Query, rows: Sequence[EventRow], excludes_history: bool) -> ResolvedQuery:
        """The query with its user's events.

        Args:
            query: whose own history comes after them, also where it is given by the feature's name.
            rows: of the user's latest events, the newest first.
            excludes_history: whether to exclude the items of the user's history.
        """
        events, excluded = rows[::-1], []
        if self.reads_types:
            uses = [self.types.use(kind, value) for _, _, kind, value in events]
            excluded = [row[0] for row, use in zip(events, uses, strict=True) if use == EXCLUDES]
            events = [row for row, use in zip(events, uses, strict=True) if use == HISTORY]
        features = dict(query.features)
        own_history = features.pop(self.feature or "", None)
        if isinstance(own_history, tuple) and not query.history and query.item_id is None:
            query = replace(query, history=own_history, features=features)
        takes_history = self.longest > 0 and query.item_id is None and self.feature not in query.features
        latest = self._latest(query, events) if takes_history else []
        if excludes_history:  # the items of the query's history are excluded anyway
            own = {row[0] for row in latest}
            excluded += [row[0] for row in events if row[0] not in own]
        history = (*[row[0] for row in latest], *query.history)
        times = query.history_times
        if takes_history and self.reads_times:
            stored = [math.nan if row[1] is None else row[1] for row in latest]
            times = (*stored, *(times or (math.nan,) * len(query.history)))
        asked = Query(query.text, history, query.features, query.item_id, times)
        return ResolvedQuery(asked, tuple(excluded))

    def _latest(self, query: Query, events: Sequence[EventRow]) -> Sequence[EventRow]:
        """As many of the latest of these events as the query tower reads, oldest first."""
        known = self.known
        kept = [row for row in events if row[0] in known]
        ids = {row[0] for row in kept} if self.is_distinct else set()
        if self.is_distinct and (len(ids) < len(kept) or not ids.isdisjoint(query.history)):
            first: dict[str, EventRow] = {}
            for row in kept:
                first.setdefault(row[0], row)
            kept = [row for row in first.values() if row[0] not in query.history]
        return kept[-self.longest :]


# Called with queries, how their bundle reads events, whether to exclude the items of histories, the seconds
# for which to exclude items shown, and a function of the queries without their users; returns the outcome of
# that function, or a `Deferred`.
ResolveUsers = Callable[[Sequence[Query], EventReading, bool, int, Callable[[list[ResolvedQuery]], Any]], Any]
