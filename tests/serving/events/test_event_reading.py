"""What the events of a user add to a query, by the rules of a bundle."""

import math
from pathlib import Path
from typing import Any

import pytest

from twinspire.protos.errors import BundleDamaged
from twinspire.protos.inputs.event_types import EventTypes
from twinspire.serving.retrieval.event_reading import EventReading, EventRow
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

KNOWN = {name: row for row, name in enumerate("abcdefg", 2)}


def reading(longest: int = 3, times: bool = False, distinct: bool = False, **types: Any) -> EventReading:
    return EventReading(KNOWN, longest, times, distinct, EventTypes(**types))


def rows(text: str, kind: str = "click") -> list[EventRow]:
    """Events of one letter each, given oldest first."""
    found: list[EventRow] = [(each, float(n), kind, None) for n, each in enumerate(text)]
    return found[::-1]


def history(of: EventReading, events: list[EventRow], query: Query | None = None) -> str:
    return "".join(of.resolved(query or Query(user="u"), events, False).query.history)


def test_the_latest_known_items_make_the_history_and_the_querys_own_come_after_them() -> None:
    assert history(reading(), rows("abcd")) == "bcd"
    assert history(reading(), rows("abxcyz")) == "abc"  # as training skips unknown items
    assert history(reading(), rows("aab")) == "aab"
    assert history(reading(distinct=True), rows("abacab")) == "abc"  # the first event of an item
    assert history(reading(), rows("abcd"), Query(history=("g", "x"), user="u")) == "bcdgx"
    assert history(reading(distinct=True), rows("ab"), Query(history=("a",), user="u")) == "ba"
    resolved = reading(longest=0).resolved(Query("text", user="u"), rows("abc"), True)
    assert resolved == (Query("text"), ("a", "b", "c"))


def test_a_history_given_by_its_name_comes_after_the_events() -> None:
    of = EventReading(KNOWN, 3, False, False, EventTypes(), "past")
    resolved = of.resolved(Query(features={"past": ("g",), "age": 3.0}, user="u"), rows("ab"), False)
    assert resolved.query == Query(history=("a", "b", "g"), features={"age": 3.0})
    twice = Query(history=("f",), features={"past": ("g",)})
    assert of.resolved(twice, rows("ab"), False).query == twice  # which its form refuses
    wrong = Query(features={"past": 3.0})
    assert of.resolved(wrong, rows("ab"), False).query == wrong


def test_types_and_labels_say_which_events_count() -> None:
    types = {"click": 1, "dislike": -1}
    events = [*rows("ab"), *rows("c", "dislike"), *rows("d", "view")]
    resolved = reading(types=types).resolved(Query(user="u"), events, False)
    assert (resolved.query.history, resolved.excluded) == (("a", "b"), ("c",))
    # The items of the history are excluded with it.
    assert reading(1, types=types).resolved(Query(user="u"), events, True).excluded == ("c", "a")
    rated: list[EventRow] = [("a", 0.0, "rated", 3.0), ("b", 0.0, "rated", 4.0), ("c", 0.0, "rated", None)]
    resolved = reading(has_label=True, positive_from=4.0).resolved(Query(user="u"), rated, False)
    assert ({*resolved.query.history}, resolved.excluded) == ({"b", "c"}, ("a",))
    assert history(reading(has_label=True), [("a", 0.0, "x", 0.0)]) == ""  # above 0, as in training
    assert history(reading(), [("a", 0.0, "x", -1.0)]) == "a"


def test_times_go_along_where_the_tower_reads_them() -> None:
    dated = reading(times=True)
    assert dated.resolved(Query(user="u"), rows("abcd"), False).query.history_times == (1.0, 2.0, 3.0)
    own = Query(history=("g",), history_times=(9.0,), user="u")
    assert dated.resolved(own, rows("ab"), False).query.history_times == (0.0, 1.0, 9.0)
    found = dated.resolved(Query(history=("g",), user="u"), rows("a"), False).query.history_times
    assert found[0] == 0.0
    assert math.isnan(found[1])
    assert reading().resolved(Query(user="u"), rows("ab"), False).query.history_times == ()


def test_a_manifest_says_how_its_bundle_reads_events(watched: Path) -> None:
    found = Retriever.load(watched).events
    assert (found.longest, found.is_distinct, found.types) == (4, False, EventTypes())
    assert "item-001" in found.known
    stored = EventTypes({"click": 1, "dislike": -1}, True, 3.5)
    assert EventTypes.of({"events": stored.document()}) == stored
    with pytest.raises(BundleDamaged, match=r"dataset.events.types.click: expected 1 or -1, got 3"):
        EventTypes.of({"events": {"types": {"click": 3}}})
