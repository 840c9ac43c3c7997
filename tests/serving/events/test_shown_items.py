"""Items shown to a user: kept by the service for some hours, and left out where a search asks for that."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.serving.cataloguing import CatalogueService, catalogue_service
from tests.helpers.waiting import wait_until
from tests.serving.events.test_events_service import both_workers
from twinspire.protos.errors import InvalidInput, Overloaded
from twinspire.serving.client import Event, Query, RetrievalClient
from twinspire.serving.client.events import record_request
from twinspire.serving.events import shown_items
from twinspire.serving.events import store as stores
from twinspire.serving.events.config import EventsConfig
from twinspire.serving.events.process import EventsProcess, initial_events_entry
from twinspire.serving.events.shown_items import MOST_WAITING, ShownItems
from twinspire.serving.events.store import EventStore
from twinspire.serving.events.user_histories import SHOWN, EventTable, UserHistories
from twinspire.serving.live.process.frames import Answered, Channel, Frame, FrameKind, PendingRequest
from twinspire.serving.shared_state import EVENTS, SharedState
from twinspire.serving.supervisor import Heartbeat

ANN, BOB = Query(user="ann"), Query(user="bob")


@pytest.fixture
def showing(clicked: Path, url: str, tmp_path: Path) -> Iterator[CatalogueService]:
    """A service that keeps items shown, on each kind of store."""
    flags = ("--events-shown-hours", "2")
    with catalogue_service(clicked, url, tmp_path / "service", *flags, store="--events") as service:
        yield service


def ids(client: RetrievalClient, query: Query, seconds: int = 0, k: int = 5) -> list[str]:
    return [hit.id for hit in client.search(query, k=k, exclude_shown=seconds).hits]


def shown(url: str, user: str) -> int:
    with closing(EventTable(url)) as table:
        return len(table.rows(SHOWN, user, 0, 10_000))


def wait_for(url: str, user: str, answers: int) -> None:
    wait_until(lambda: shown(url, user) == answers)


def test_items_shown_are_left_out_through_each_worker_and_host(
    showing: CatalogueService, clicked: Path, url: str, tmp_path: Path
) -> None:
    one, other = both_workers(showing)
    flags = ("--events-shown-hours", "2")
    with (
        catalogue_service(clicked, url, tmp_path / "host", *flags, store="--events") as host,
        host.client() as far,
        one,
        other,
    ):
        everything = ids(one, BOB, k=20)
        for n, client in enumerate((one, far, other)):  # the next five each, whichever answers
            expected = everything[5 * n : 5 * n + 5]
            wait_for(url, "ann", n)
            assert ids(client, ANN, 3600) == expected
        wait_for(url, "ann", 3)
        assert ids(one, ANN) == everything[:5], "an option, not a rule"
        assert ids(one, Query(user="eve"), 3600) == everything[:5], "of each user alone"
        wait_for(url, "eve", 1)
        batch = one.search_batch([ANN, Query(user="eve")], k=5, exclude_shown=3600)
        assert [hit.id for hit in batch[0].hits] == everything[15:20]
        assert not {hit.id for hit in batch[1].hits} & {*everything[:5]}


@pytest.mark.parametrize("broken", [FrameKind.SHOWN, FrameKind.WRITE])
def test_a_fault_of_items_shown_refuses_no_events_nor_the_other_way_round(
    tmp_path: Path, broken: FrameKind
) -> None:
    config, state = EventsConfig(f"sqlite:///{tmp_path}/events.db"), SharedState((EVENTS,))
    state.write(EVENTS, initial_events_entry(config))
    payloads = {
        FrameKind.SHOWN: json.dumps([["ann", ["item-001"]]]).encode(),
        FrameKind.WRITE: record_request([Event("ann", "item-001")]).SerializeToString(),
    }
    replies: list[Frame] = []
    peer: Any = SimpleNamespace(send=replies.append)
    with closing(Channel()) as channel:
        process = EventsProcess(config, channel, state, 5.0, Heartbeat())
        for kind, payload in {**payloads, broken: b"\xff"}.items():
            process._requests.put(PendingRequest(peer, Frame(kind, kind, 1, payload)))
        process.step()
        process._opened().close()
    other = FrameKind.WRITE if broken is FrameKind.SHOWN else FrameKind.SHOWN
    found = {each.number: each.kind for each in replies}
    assert found == {broken: FrameKind.ERROR, other: FrameKind.ANSWER}
    assert shown(config.url, "ann") == (other is FrameKind.SHOWN)
    assert state.read(EVENTS)["stored"] == (other is FrameKind.WRITE)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_only_the_last_seconds_count_and_what_cannot_be_done_is_refused(showing: CatalogueService) -> None:
    with showing.client() as client:
        first = ids(client, ANN)
        wait_for(showing.url, "ann", 1)
        assert not {*ids(client, ANN, 3600)} & {*first}
        time.sleep(1.1)
        assert ids(client, ANN, 1) == first
        with pytest.raises(InvalidInput, match=r"queries\[1\].user: required with exclude_shown"):
            client.search_batch([ANN, Query()], exclude_shown=5)
        with pytest.raises(InvalidInput, match="at most 7200, as long as items shown are kept"):
            client.search(ANN, exclude_shown=7201)


def test_without_the_flag_nothing_is_kept(small: CatalogueService) -> None:
    with small.client() as client:
        ids(client, ANN)
        with pytest.raises(InvalidInput, match="--events-shown-hours"):
            client.search(ANN, exclude_shown=5)
    small.stop()
    assert shown(small.url, "ann") == 0


def test_a_user_that_is_deleted_has_been_shown_nothing(url: str) -> None:
    with closing(EventStore.open(url)) as store:
        store.show([("u", ["a", "b"]), ("u", ["c"]), ("v", ["a"])])
        assert (shown(url, "u"), shown(url, "v")) == (2, 1)
        assert store.delete_user("u") == 0, "these are no events"
    assert (shown(url, "u"), shown(url, "v")) == (0, 1)


def test_no_more_is_read_than_could_be_left_out(url: str) -> None:
    with closing(EventStore.open(url)) as store:
        store.show([("u", ["old"]), ("u", ["a"] * 30), ("u", ["b", "c"])])
        users = UserHistories(url, 1, 3, lambda function: function())
        try:
            assert users._shown("u", 3600) == ["b", "c", "a"]
            store.show([("u", ["a"] * 30)])
            assert users._shown("u", 3600) == ["a"], "repeats end it, too"
            store.show([("u", ["d", "e", "f", "g"])])
            assert users._shown("u", 3600) == ["d", "e", "f"]
        finally:
            users.stop()


def test_what_was_shown_is_deleted_after_some_hours(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MOST_DELETED", 3)
    with closing(EventStore.open(url)) as store:
        before = time.time_ns() - 3 * 3600 * 10**9
        with monkeypatch.context() as clock:
            clock.setattr(time, "time_ns", lambda: before)
            store.show([("u", [str(n)]) for n in range(5)])
        store._last = 0
        store.show([("u", ["new"])])
        assert [store.prune(365, 10**9, 2.0) for _ in range(3)] == [3, 2, 0]
        assert shown(url, "u") == 1
        assert store.prune(365, 10**9) == 0, "a service that keeps none deletes none"


def test_what_waits_is_sent_in_parts_also_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_items, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(shown_items, "MOST_IDS", 5)
    dropped, sent = list[int](), list[int]()

    def ask(kind: FrameKind, payload: bytes, answered: Answered, items: int = 0) -> None:
        sent.append(items)
        if len(sent) == 1:
            raise Overloaded("of a test", 1.0)
        answered(Frame(FrameKind.ANSWER, 0, 0, b""))

    soon: SimpleQueue[Callable[[], None]] = SimpleQueue()
    client: Any = SimpleNamespace(ask=ask)
    kept = ShownItems(client, 3600, soon.put, dropped.append)
    for ids in [["a", "b"]] * 5 + [["a"] * 9]:
        kept.add("u", ids)
    for _ in range(4):  # the end of the pause, and three replies
        soon.get(timeout=30)()
    assert (sent, dropped) == ([1, 2, 2, 1], [1])


def test_answers_beyond_what_may_wait_are_dropped_and_counted() -> None:
    dropped, sent = list[int](), list[object]()
    client: Any = SimpleNamespace(ask=lambda *given, **named: sent.append(given))  # no process answers
    kept = ShownItems(client, 3600, lambda function: function(), dropped.append)
    for n in range(1 + MOST_WAITING + 7):  # the first is on its way
        kept.add("u", [str(n)])
    assert (sum(dropped), len(sent)) == (7, 1)
