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
    """

    known: Mapping[str, int]
    longest: int
    reads_times: bool
    is_distinct: bool
    types: EventTypes

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
        )

    def resolved(self, query: Query, rows: Sequence[EventRow], excludes_history: bool) -> ResolvedQuery:
        """The query with its user's events.

        Args:
            query: whose own history comes after them.
            rows: of the user's latest events, the newest first.
            excludes_history: whether to exclude the items of the user's history.
        """
        types = self.types
        uses, other = types.types, 0 if types.types else HISTORY
        events: list[tuple[str, float]] = []
        excluded = []
        for item_id, seconds, kind, value in reversed(rows):
            use = uses.get(kind, other) if value is None else types.use(kind, value)
            if use == HISTORY:
                events.append((item_id, math.nan if seconds is None else seconds))
            elif use == EXCLUDES:
                excluded.append(item_id)
        if excludes_history:
            excluded += [item_id for item_id, _ in events]
        asked = replace(query, user=None)
        if self.longest and query.item_id is None:
            asked = self._with_history(asked, [each for each in events if each[0] in self.known])
        return ResolvedQuery(asked, tuple(excluded))

    def _with_history(self, query: Query, events: list[tuple[str, float]]) -> Query:
        """The query with the latest of these events, oldest first, before its own history."""
        first: dict[str, float] = {}
        if self.is_distinct:
            for item_id, seconds in events:
                first.setdefault(item_id, seconds)
            own = {*query.history}
            events = [each for each in first.items() if each[0] not in own]
        events = events[-self.longest :]
        history = (*[item_id for item_id, _ in events], *query.history)
        if not self.reads_times:
            return replace(query, history=history)
        own_times = query.history_times or (math.nan,) * len(query.history)
        times = (*[seconds for _, seconds in events], *own_times)
        return replace(query, history=history, history_times=times)


# Called with queries, how their bundle reads events, whether to exclude the items of histories, and a
# function of the queries without their users; returns the outcome of that function, or a `Deferred`.
ResolveUsers = Callable[[Sequence[Query], EventReading, bool, Callable[[list[ResolvedQuery]], Any]], Any]
