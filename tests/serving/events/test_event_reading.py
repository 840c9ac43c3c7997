"""What the events of a user add to a query, and how their process deletes and reads them."""

import gc
import math
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from twinspire.protos.errors import BundleDamaged, Unavailable
from twinspire.protos.inputs.event_types import EventTypes
from twinspire.serving.engine.call import Deferred
from twinspire.serving.events import user_histories
from twinspire.serving.events.config import EventsConfig
from twinspire.serving.events.process import EventsProcess, initial_events_entry
from twinspire.serving.events.store import MOST_DELETED, EventStore
from twinspire.serving.events.user_histories import EventTable, UserHistories
from twinspire.serving.live.process.frames import Channel
from twinspire.serving.live.store.database import Database
from twinspire.serving.retrieval.event_reading import EventReading, EventRow
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.shared_state import EVENTS, SharedState
from twinspire.serving.supervisor import Heartbeat

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


@pytest.fixture
def state() -> SharedState:
    return SharedState((EVENTS,))


@pytest.fixture
def process(tmp_path: Path, state: SharedState) -> Iterator[EventsProcess]:
    config = EventsConfig(f"sqlite:///{tmp_path}/events.db")
    state.write(EVENTS, initial_events_entry(config))
    with closing(Channel()) as channel:
        process = EventsProcess(config, channel, state, 1.0, Heartbeat())
        process._frames.start()
        yield process
        process._frames.stop()
        if process._store is not None:
            process._store.close()


def test_a_deletion_that_fails_is_logged_and_one_that_works_again_ends_the_error(
    process: EventsProcess,
    state: SharedState,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = Unavailable("the disk is full"), OverflowError("too large")
    outcomes: Iterator[int | Exception] = iter([faults[0], MOST_DELETED, faults[1], 0])

    def prune(store: EventStore, days: float, most: int, shown_hours: float) -> int:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(EventStore, "prune", prune)
    monkeypatch.setattr("twinspire.serving.events.process.PRUNE_SECONDS", 0.0)
    process.step(0.0)
    assert state.read(EVENTS)["last_error"] == "the disk is full"
    process.step(0.0)
    assert state.read(EVENTS)["last_error"] == ""
    monkeypatch.setattr("twinspire.serving.events.process.PRUNE_SECONDS", 3600.0)
    process.step(0.0)  # at once, since the last call may have left some
    assert "too large" in caplog.text
    process.step(0.0)
    assert next(outcomes) == 0  # it was not called


class SlowTable:
    """A table whose first read waits until the call is over."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.reading, self.over = threading.Event(), threading.Event()

    is_file = False

    def latest(self, user: str, most: int, columns: str) -> Sequence[EventRow]:
        self.asked.append(user)
        self.reading.set()
        assert self.over.wait(20)
        return ()

    def close(self) -> None:
        """There is no connection."""


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> SlowTable:
    table = SlowTable()
    monkeypatch.setattr(user_histories, "EventTable", lambda url: table)
    return table


def test_the_users_of_a_call_that_is_over_are_not_read(table: SlowTable) -> None:
    soon: queue.Queue[Callable[[], None]] = queue.Queue()
    histories = UserHistories("", 10, 10, soon.put)
    reading = EventReading({}, 3, False, False, EventTypes())
    queries = [Query(user=each) for each in "abc"]
    deferred = cast(Deferred, histories.resolve(queries, reading, False, 0, lambda found: found))
    assert table.reading.wait(20)
    deferred.abandon()
    table.over.set()
    soon.get(timeout=20)()
    histories.stop()
    assert table.asked == ["a"]


def test_a_call_waits_for_a_short_read_and_is_deferred_by_a_long_one(
    table: SlowTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_histories, "WAIT_SECONDS", 20.0)
    soon: queue.Queue[Callable[[], None]] = queue.Queue()
    histories = UserHistories("", 10, 10, soon.put)
    reading = EventReading({}, 3, False, False, EventTypes())
    ask = partial(histories.resolve, [Query(user="a")], reading, False, 0, len)
    table.over.set()
    assert ask() == 1
    monkeypatch.setattr(user_histories, "WAIT_SECONDS", 0.0)
    table.over.clear()
    outcomes = list[Callable[[], Any]]()
    for each in (ask(), ask()):
        each.when_resolved(outcomes.append)
    freed = weakref.ref(reading)
    gc.disable()  # as services do
    del reading, ask, each
    table.over.set()
    for _ in range(2):
        soon.get(timeout=20)()
    assert [outcome() for outcome in outcomes] == [1, 1]
    outcomes.clear()
    histories.stop()
    is_freed = freed() is None
    gc.enable()
    assert is_freed  # there is no cycle
    assert histories._waiting == 0


@pytest.mark.exhaustive
def test_a_read_of_postgresql_is_repeated_only_where_the_connection_broke(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    open_one = Database.raw_connection

    def counted(database: Database) -> Any:
        opened.append(open_one(database))
        return opened[-1]

    monkeypatch.setattr(Database, "raw_connection", counted)
    EventStore.open(cluster).close()
    with closing(EventTable(cluster)) as table, closing(EventTable(cluster)) as other:
        assert table.latest("u", 1) == []
        with pytest.raises(Unavailable, match="cannot be read now: undefined column"):
            table.latest("u", 1, "no_such_column")
        assert len(opened) == 1
        assert table.latest("u", 1) == []
        other.latest("u", 1)
        broken = opened[1].driver_connection.info.backend_pid
        opened[2].driver_connection.execute("SELECT pg_terminate_backend(%s, 10000)", (broken,))
        assert table.latest("u", 1) == []
        assert len(opened) == 4
