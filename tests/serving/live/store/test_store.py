"""The store of live items, on files of SQLite and, where it is installed, on PostgreSQL."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.postgres import without_postgres
from twinspire.protos import catalogue_pb2 as wire
from twinspire.protos.errors import InvalidInput, Overloaded, Unavailable
from twinspire.serving.live.store import store as stores
from twinspire.serving.live.store.records import (
    START,
    ItemWrite,
    Position,
    WriteRequest,
    answer_to_json,
    repeated_answer,
)
from twinspire.serving.live.store.store import Store, StoreRolledBack, require_same_history


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store.open(url)) as store:
        yield store


def upsert(*ids: str, text: str = "a lamp", **request: Any) -> WriteRequest:
    items = [ItemWrite(each, features=json.dumps({"title": text}), fields='{"name": "x"}') for each in ids]
    return WriteRequest(items, **request)


def delete(*ids: str, expected: int | None = None) -> WriteRequest:
    return WriteRequest([ItemWrite(each, True, expected) for each in ids])


def one(store: Store, request: WriteRequest, **more: Any) -> wire.WriteResponse:
    (outcome,) = store.write([request], **more)
    if not isinstance(outcome, wire.WriteResponse):
        raise outcome
    return outcome


def ids_after(store: Store, after: int, limit: int = 1000) -> list[tuple[int, str, bool]]:
    return [(each.sequence, each.item_id, each.deleted) for each in store.page(after, limit).changes]


def test_the_feed_has_the_latest_state_of_each_item_in_the_order_of_the_writes(
    store: Store, url: str
) -> None:
    assert store.sequence() == 0
    assert store.page(0, 10).changes == []
    assert one(store, upsert("a", "b", "c")).sequence == 3
    assert one(store, upsert("a", text="a lämp\n\0")).sequence == 4
    assert one(store, delete("b", "unknown")).sequence == 6
    assert ids_after(store, 0) == [
        (3, "c", False), (4, "a", False), (5, "b", True), (6, "unknown", True),
    ]  # fmt: skip
    assert ids_after(store, 3, 2) == [(4, "a", False), (5, "b", True)]
    (changed,) = store.page(3, 1).changes
    assert (changed.features, changed.fields) == ({"title": "a lämp\n\0"}, {"name": "x"})
    assert store.page(4, 1).changes[0].features == {}
    assert store.count() == (2, 2)
    assert store.count(after=4) == (0, 2)
    with closing(Store.open(url)) as again:
        assert (again.store_id, again.sequence()) == (store.store_id, 6)
        found = again.get(["a", "b", "x"])
    assert {name: each.deleted for name, each in found.items()} == {"a": False, "b": True}
    assert found["a"].written_at > 1.7e9


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("mark = 7", "store has another history than before up to sequence 3; if it was restored"),
        ("store_id = 'another'", "leads to another store than before; restart the service"),
    ],
)
def test_a_store_that_is_not_that_of_before_takes_no_writes(store: Store, change: str, error: str) -> None:
    """As after a restore from a copy, or where a server that lags has taken over from another."""
    one(store, upsert("a", "b"))
    before = store.position()
    assert one(store, upsert("a"), known=before).sequence == 3
    known = store.position()
    assert store.position(known) == store.position(before) == known
    with store._database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE twinspire_meta SET {change}")
        connection.exec_driver_sql("DELETE FROM twinspire_history WHERE sequence = 3")
    with pytest.raises(StoreRolledBack, match=error):
        store.write([upsert("c")], known=known)
    with pytest.raises(StoreRolledBack, match=error):
        store.position(known)
    assert store.get(["c"]) == {}


def test_a_copy_that_was_written_to_has_another_history_from_then_on(tmp_path: Path) -> None:
    url, copy = f"sqlite:///{tmp_path}/items.db", tmp_path / "copy.db"
    with closing(Store.open(url)) as store:
        one(store, upsert("a"))
        shared = store.position()
    shutil.copy(tmp_path / "items.db", copy)
    ends = []
    for each in (url, f"sqlite:///{copy}"):
        with closing(Store.open(each)) as store:
            one(store, upsert("b"))
            ends.append(store.position())
    assert ends[0].sequence == ends[1].sequence == 2
    with closing(Store.open(url)) as store:
        assert [store.was_at(each) for each in (START, shared, *ends)] == [True, True, True, False]
        assert store.was_at(Position(3, 0)) is False
        assert store.was_at(Position(2, 0)) is None  # of a bundle that was built before there were marks


def test_it_is_not_known_for_ever_where_a_store_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "KEEP_MARKS", 10)
    monkeypatch.setattr(stores, "PRUNE_EVERY", 2)
    with closing(Store.open(url)) as store:
        positions = [store.position() for _ in range(50) if one(store, upsert("a"))]
        assert store.was_at(positions[0]) is None
        assert all(store.was_at(each) for each in positions[-10:])


def test_a_store_gets_a_new_id_once_if_two_processes_want_it(url: str) -> None:
    with closing(Store.open(url)) as store, closing(Store.open(url)) as other:
        one(store, upsert("a"))
        before, position = store.store_id, store.position()
        store.assign_new_id()
        with pytest.raises(StoreRolledBack, match="leads to another store than before"):
            other.position(position)
        other.assign_new_id()
        assert store.store_id == other.store_id != before
        assert other.position(position) == position


def test_modes_and_expected_sequences_decide_for_each_item(store: Store) -> None:
    one(store, upsert("a", "b"))
    one(store, delete("b"))

    def results(*items: ItemWrite, mode: "wire.WriteMode" = wire.WRITE_UPSERT) -> list[tuple[int, int]]:
        return [(each.sequence, each.error) for each in one(store, WriteRequest(items, mode)).results]

    inserted = results(
        ItemWrite("a"), ItemWrite("b"), ItemWrite("c"), ItemWrite("d", in_bundle=True), mode=wire.WRITE_INSERT
    )
    assert inserted == [
        (1, wire.WRITE_EXISTS),
        (4, wire.WRITE_OK),
        (5, wire.WRITE_OK),
        (0, wire.WRITE_EXISTS),
    ]
    updated = results(ItemWrite("a"), ItemWrite("x"), ItemWrite("d", in_bundle=True), mode=wire.WRITE_UPDATE)
    assert updated == [(6, wire.WRITE_OK), (0, wire.WRITE_MISSING), (7, wire.WRITE_OK)]
    expected = results(
        ItemWrite("a", expected=1),
        ItemWrite("c", expected=5),
        ItemWrite("x", True, 0),
        ItemWrite("d", True, 0),
    )
    assert expected == [
        (6, wire.WRITE_CONFLICT), (8, wire.WRITE_OK), (9, wire.WRITE_OK), (7, wire.WRITE_CONFLICT),
    ]  # fmt: skip
    nothing = one(store, WriteRequest([ItemWrite("a")], wire.WRITE_INSERT))
    assert (nothing.sequence, store.sequence()) == (9, 9)
    assert "exists already" in nothing.results[0].error_text


def test_requests_of_one_transaction_see_one_another(store: Store) -> None:
    outcomes = store.write(
        [
            upsert("a", mode=wire.WRITE_INSERT),
            upsert("a", mode=wire.WRITE_INSERT),
            delete("a", expected=1),
            upsert("a", mode=wire.WRITE_INSERT, request_id="r", digest="1"),
            upsert("a", request_id="r", digest="1"),
            upsert("a", request_id="r", digest="2"),
        ]
    )
    found = [each.results[0] for each in outcomes[:5] if isinstance(each, wire.WriteResponse)]
    assert [(each.sequence, each.error) for each in found] == [
        (1, wire.WRITE_OK),
        (1, wire.WRITE_EXISTS),
        (2, wire.WRITE_OK),
        (3, wire.WRITE_OK),
        (3, wire.WRITE_OK),
    ]
    assert isinstance(outcomes[4], wire.WriteResponse)
    assert outcomes[4].repeated_request
    assert isinstance(outcomes[5], InvalidInput)
    assert outcomes[5].field == "request_id"
    assert ids_after(store, 0) == [(3, "a", False)]


def test_a_repeat_of_a_committed_request_is_answered_even_after_its_deadline(store: Store) -> None:
    first = one(store, upsert("a", request_id="r", digest="1"))
    again = one(store, upsert("a", request_id="r", digest="1", deadline=time.monotonic() - 1))
    assert (again.sequence, again.repeated_request) == (first.sequence, True)
    with pytest.raises(Unavailable, match="deadline has passed, so nothing was written"):
        one(store, upsert("b", request_id="new", digest="1", deadline=time.monotonic() - 1))


def test_answers_of_requests_that_wrote_nothing_are_kept_as_long_as_others_and_then_forgotten(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "MAX_WRITES", 30)
    monkeypatch.setattr(stores, "PRUNE_EVERY", 2)
    with closing(Store.open(url)) as store:
        one(store, upsert("a"))
        changes = store.page(0, 10).changes

        def refused(n: int) -> wire.WriteResponse:
            return one(store, upsert("a", mode=wire.WRITE_INSERT, request_id=str(n), digest="1"))

        for n in range(50):
            assert refused(n).results[0].error == wire.WRITE_EXISTS
        assert refused(45).repeated_request
        assert not refused(3).repeated_request  # there is a bound also within a day
        with store._database.reading() as connection:
            query = "SELECT count(*) FROM twinspire_requests"
            assert connection.exec_driver_sql(query).scalar_one() <= 32
        assert store.page(0, 10).changes == changes
        assert one(store, upsert("b")).sequence == store.sequence()


def test_answers_are_kept_as_they_were_given() -> None:
    def conflict(sequence: int) -> wire.WriteResult:
        return wire.WriteResult(sequence=sequence, error=wire.WRITE_CONFLICT, error_text="why")

    def written(sequence: int) -> wire.WriteResult:
        return wire.WriteResult(sequence=sequence)

    for results in (
        [written(3), written(4)],
        [written(3), written(7)],
        [conflict(2), written(4)],
        [conflict(0)] * 7,
    ):
        again = repeated_answer(answer_to_json(wire.WriteResponse(sequence=4, results=results)))
        assert again == wire.WriteResponse(sequence=4, results=results, repeated_request=True)


def test_a_clock_that_is_set_back_loses_nothing_and_changes_no_order(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store.open(url)) as store, monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: 2e9)
        one(store, upsert("a", "b", request_id="first", digest="1"))
        clock.setattr(time, "time", lambda: 1e9)
        assert one(store, upsert("a", text="later")).sequence == 3
        assert one(store, upsert("a", "b", request_id="first", digest="1")).repeated_request
        one(store, delete("b"))
    with closing(Store.open(url)) as store:
        assert ids_after(store, 0) == [(3, "a", False), (4, "b", True)]
        assert store.get(["a"])["a"].features == {"title": "later"}


def test_bounds_are_those_of_the_store_for_everybody(store: Store, url: str) -> None:
    assert store.bounds.max_overlay == 100_000
    with closing(Store.open(url, {"max_overlay": 3, "max_batch": 7})) as other:
        assert other.bounds.max_overlay == 3
    one(store, upsert("a", "b"))
    assert (store.bounds.max_overlay, store.bounds.max_batch) == (3, 7)
    with pytest.raises(Overloaded, match=r"without 2 changes .* may miss 3 at most; refresh the bundle"):
        one(store, upsert("a", "c", "d"))
    one(store, upsert("a", "b"))  # both count already
    one(store, delete("a", "c"))
    with pytest.raises(Overloaded):
        one(store, delete("d"))
    one(store, delete("a"))  # a delete of what exists is always taken
    one(store, WriteRequest([ItemWrite("in the bundle", True, in_bundle=True)]))
    with pytest.raises(Overloaded, match="without 4 changes"):
        one(store, upsert("d"))
    with closing(Store.open(url, {"max_overlay": 4})) as other:
        with pytest.raises(Overloaded):
            one(other, delete("d"))
        assert one(other, delete("d"), base=4).sequence == 9  # a bundle of sequence 4 knows b
    with pytest.raises(ValueError, match="max_batch"):
        Store.open(url, {"max_batch": 0})


@pytest.mark.skipif(bool(without_postgres()), reason=without_postgres())
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_write_that_has_waited_for_another_one_succeeds_whatever_the_default_level(url: str) -> None:
    with closing(Store.open(url)) as store, store._database._engine.connect() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        change = f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"
        connection.exec_driver_sql(change)
        connection.commit()
    outcomes: list[wire.WriteResponse] = []
    with closing(Store.open(url)) as first, closing(Store.open(url)) as second:
        thread = threading.Thread(target=lambda: outcomes.append(one(second, upsert("b"))))
        with first._database.writing() as connection:
            connection.exec_driver_sql("UPDATE twinspire_meta SET sequence = sequence + 1")
            thread.start()
            time.sleep(0.3)
        thread.join()
    assert [each.sequence for each in outcomes] == [2]


def test_a_snapshot_is_one_state_while_others_write(store: Store, url: str) -> None:
    one(store, upsert("a", "b", "c"))
    with closing(Store.open(url)) as other, store.snapshot(after=1) as (position, changes):
        one(other, upsert("b", "d"))
        one(other, delete("c"))
        found = [(each.sequence, each.item_id, each.deleted) for each in changes]
    assert (position.sequence, found) == (3, [(2, "b", False), (3, "c", False)])
    with store.snapshot() as (position, changes):
        assert (position.sequence, [each.item_id for each in changes]) == (6, ["a", "b", "d", "c"])


def test_a_page_of_changes_is_one_state(store: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one(store, upsert("a", "b", "c"))
    with closing(Store.open(url)) as other, monkeypatch.context() as patch:

        def write_after_the_position(*given: Any) -> Position:
            patch.undo()
            one(other, upsert("b", "d"))
            return require_same_history(*given)

        patch.setattr(stores, "require_same_history", write_after_the_position)
        position, changes = store.page(0, 10)
        found = [(each.sequence, each.item_id) for each in changes]
        assert (position.sequence, found) == (3, [(1, "a"), (2, "b"), (3, "c")])
        position, changes = store.page(1, 10)
        found = [(each.sequence, each.item_id) for each in changes]
        assert (position.sequence, found) == (5, [(3, "c"), (4, "b"), (5, "d")])


def test_compaction_forgets_old_answers_and_keeps_each_item_and_delete(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store.open(url)) as store, monkeypatch.context() as clock:
        for n in range(4):
            one(store, upsert(f"item {n}", request_id=f"request {n}"))
        one(store, delete("item 0"))
        before = store.page(0, 100).changes
        assert store.compact() == 0  # none is old
        later = time.time() + stores.KEEP_SECONDS + 1
        clock.setattr(time, "time", lambda: later)
        assert store.compact() == 4
        assert store.page(0, 100).changes == before
        if url.startswith("sqlite"):
            assert Path(f"{url.removeprefix('sqlite:///')}-wal").stat().st_size == 0


def test_the_overlay_is_not_bounded_while_its_beginning_is_not_known(url: str) -> None:
    with closing(Store.open(url, {"max_overlay": 2})) as store:
        one(store, upsert("a", "b", "c"), base=None)
        with pytest.raises(Overloaded, match="built without 3 changes"):
            one(store, upsert("d"))
        one(store, upsert("d"), base=None)
        one(store, upsert("e", "f"), base=4)
