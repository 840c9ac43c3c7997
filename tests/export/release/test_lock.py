"""The release lock: one holder at a time, named to the others, broken safely when its holder has died."""

import logging
import os
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from export.release import audit_log, lock
from protos.errors import Unavailable
from protos.mlflow_keys import STAGE
from protos.release_records import LOCK_STALE_S, RELEASE
from tests.helpers.releases import killed_while_it_holds_the_lock
from tests.helpers.stdlib import tracking_at
from tests.helpers.waiting import wait_until
from train.training.tracking import experiment_id


def names() -> list[str]:
    return sorted(model.name for model in mlflow.MlflowClient().search_registered_models())


def left_by(actor: str) -> lock.ReleaseLock:
    """The lock of a process that died elsewhere while it held it."""
    left = lock.ReleaseLock("a", uuid.uuid4().hex)
    with lock._opened("a") as file:
        lock._acquire(left, actor, file, time.monotonic())
    mlflow.MlflowClient().set_registered_model_tag("a.release-lock", lock.FILE, "boot 6fd6afc5 1 2")
    return left


def test_it_is_there_while_it_is_held_and_gone_after(store: str) -> None:
    with lock.acquire("a", "ann@one") as held:
        held.check()
        assert names() == ["a.release-lock"]
        assert lock.holder("a") == "ann@one"
        with lock.acquire("b", "bob@two"):
            assert lock.holder("b") == "bob@two"
    assert names() == []
    assert lock.holder("a") == ""
    with pytest.raises(KeyError), lock.acquire("a", "ann@one"):
        raise KeyError
    assert names() == []


def test_a_second_process_is_told_the_holder_and_what_to_do(store: str) -> None:
    with lock.acquire("a", "ann@one") as first:
        with pytest.raises(Unavailable) as raised, lock.acquire("a", "bob@two", wait_s=0.0):
            pytest.fail("both hold it")
        model = mlflow.MlflowClient().get_registered_model("a.release-lock")
        since, until = (
            datetime.fromtimestamp(model.creation_timestamp / 1000 + seconds, UTC).isoformat(
                timespec="seconds"
            )
            for seconds in (0, LOCK_STALE_S)
        )
        for part in (
            f"a: the release lock is taken by ann@one (process {os.getpid()}), held since {since}",
            f"until {until}",
        ):
            assert part in str(raised.value)
        assert "delete the registered model a.release-lock" in str(raised.value)
        first.check()  # a process that did not get the lock leaves it alone


def test_a_second_process_gets_it_when_the_first_releases_it_and_says_for_whom_it_waits(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []
    asks = threading.Event()

    def second() -> None:
        asks.set()
        with lock.acquire("a", "bob@two"):
            order.append("second")

    with lock.acquire("a", "ann@one"):
        thread = threading.Thread(target=second)
        thread.start()
        assert asks.wait(10)
        wait_until(lambda: "waits for" in caplog.text)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert names() == []
    waited = [each.getMessage() for each in caplog.records if "waits" in each.getMessage()]
    assert len(waited) == 1 and waited[0].startswith(
        "a: waits for the release lock, held by ann@one (process "
    )


def test_one_that_was_left_is_broken(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_by("ann@one")
    monkeypatch.setattr(lock, "LOCK_STALE_S", 0.0)
    with lock.acquire("a", "bob@two") as held:
        assert lock.holder("a") == "bob@two"
        assert names() == ["a.release-lock", f"a.release-lock-{left.token}"]
        monkeypatch.undo()
        with pytest.raises(Unavailable, match="was taken over"):
            left.check()
        lock._release(left)  # the first wakes up, and must not release the lock of the second
        held.check()
    assert names() == [f"a.release-lock-{left.token}"]


def test_only_one_of_two_processes_breaks_it(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_by("ann@one")
    seen = lock._touch("a")
    assert seen is not None
    monkeypatch.setattr(lock, "LOCK_STALE_S", 0.0)
    with lock.acquire("a", "bob@two") as held:
        with pytest.raises(MlflowException):  # a third process, which saw the same lock, is too late
            lock._break("a", seen, "it is old")
        monkeypatch.undo()
        held.check()
        assert lock.holder("a") == "bob@two"
    assert names() == [f"a.release-lock-{left.token}"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("reaped", [True, False])
def test_the_lock_of_a_killed_process_is_broken_at_once(
    store: str, reaped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with killed_while_it_holds_the_lock("a", reaped) as pid:
        token = mlflow.MlflowClient().get_registered_model("a.release-lock").tags[lock.TOKEN]
        assert lock.holder("a") == ""
        with caplog.at_level(logging.WARNING), lock.acquire("a", "bob@two", wait_s=0.0) as held:
            held.check()
            assert lock.holder("a") == "bob@two"
    (broken,) = held.broke
    assert broken.startswith(f"ann@one (process {pid}), held since ")
    assert broken.endswith(": its process has ended")
    assert f"a: broke the release lock of {broken}" in caplog.text
    assert names() == [f"a.release-lock-{token}"]


def test_a_holder_that_locked_another_file_keeps_the_lock_for_its_lease(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by("ann@one")
    with pytest.raises(Unavailable, match="taken by ann@one"), lock.acquire("a", "bob@two", wait_s=0.0):
        pytest.fail("its process may be alive")
    assert lock.holder("a") == "ann@one"
    monkeypatch.setattr(lock, "LOCK_STALE_S", 0.0)
    with lock.acquire("a", "bob@two", wait_s=0.0) as held:
        assert held.broke[0].endswith("it was held for longer than 0 s")


def test_a_process_that_could_not_lock_the_file_is_not_taken_for_one_that_has_ended(store: str) -> None:
    with lock._opened("a") as other:
        assert lock._locked(other)
        with lock.acquire("a", "ann@one"):
            with pytest.raises(Unavailable, match="taken by ann@one"), lock.acquire("a", "bob@two", 0.0):
                pytest.fail("both hold it")
            other.close()  # its process has ended
            with pytest.raises(Unavailable, match="taken by ann@one"), lock.acquire("a", "bob@two", 0.0):
                pytest.fail("both hold it")


def test_control_characters_in_the_tags_of_a_lock_do_not_reach_the_terminal(store: str) -> None:
    left_by("ann\x1b[2J@one\n")
    mlflow.MlflowClient().set_registered_model_tag("a.release-lock", lock.PROCESS, "\x1b]0;title\x07\n")
    assert lock.holder("a") == "ann [2J@one"
    with pytest.raises(Unavailable) as raised, lock.acquire("a", "bob@two", wait_s=0.0):
        pytest.fail("its process may be alive")
    assert str(raised.value).isprintable()
    assert "taken by ann [2J@one (process ]0;title)" in str(raised.value)


def test_what_a_record_says_of_broken_locks_fits_into_it(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, create = mlflow.MlflowClient(), lock._create
    client.create_registered_model("a")
    others = [lock.ReleaseLock("a", uuid.uuid4().hex) for _ in range(5)]

    def overtaken(wanted: lock.ReleaseLock, actor: str, locked: str) -> bool:
        """Before each of five tries a process takes the lock and is killed."""
        if others:
            create(others.pop(), '"' * 4000, locked)
        return create(wanted, actor, locked)

    monkeypatch.setattr(lock, "_create", overtaken)
    with lock.acquire("a", "bob@two") as held:
        assert len(held.broke) == 3
        assert all(each.endswith(": its process has ended") for each in held.broke)
        run_id = client.create_run(experiment_id("a"), tags={STAGE: RELEASE}).info.run_id
        audit_log.append("a", run_id, "bob@two", "promote", "", "1", reason='"' * 2000, broke=held.broke)
    found = audit_log.read("a")
    assert audit_log.problems(found) == []
    assert found.entries[0].record.broke == held.broke


def test_a_lock_that_cannot_be_broken_is_tried_with_pauses_and_the_error_says_why(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by("ann@one")
    monkeypatch.setattr(lock, "LOCK_STALE_S", 0.0)
    tries: list[str] = []

    def rename(client: mlflow.MlflowClient, name: str, new_name: str) -> None:
        tries.append(name)
        raise MlflowException("the database is locked")

    monkeypatch.setattr(mlflow.MlflowClient, "rename_registered_model", rename)
    monkeypatch.setattr(lock, "WAIT_S", 0.5)
    with (
        pytest.raises(Unavailable, match=r"could not be taken \(the database is locked\); try again"),
        lock.acquire("a", "bob@two", wait_s=0.0),
    ):
        pytest.fail("it was not broken")
    assert 1 <= len(tries) <= 4


@pytest.mark.exhaustive
def test_of_many_that_see_a_dead_holder_at_once_one_breaks_its_lock(store: str) -> None:
    inside, most, broke = [0], [0], list[str]()
    start = threading.Barrier(4)

    def work(n: int) -> None:
        start.wait(30)
        with lock.acquire("a", f"user-{n}@host") as held:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            broke.extend(held.broke)
            held.check()
            inside[0] -= 1

    with killed_while_it_holds_the_lock("a"):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert most == [1]
    assert len(broke) == 1


def test_a_holder_that_was_too_slow_goes_no_further(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock.acquire("a", "ann@one") as held:
        monkeypatch.setattr(lock, "LOCK_STALE_S", 0.0)
        lock._touch("a")
        with pytest.raises(Unavailable, match="gave up after holding the release lock"):
            held.check()


def test_many_at_once_hold_it_in_turn(store: str) -> None:
    inside, most = [0], [0]
    done: list[int] = []

    def work(n: int) -> None:
        for _ in range(3):
            with lock.acquire("a", f"user-{n}@host"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                mlflow.get_experiment_by_name("a")  # time for another to come in, if it could
                inside[0] -= 1
        done.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == [0, 1, 2, 3]
    assert most == [1]
    assert names() == []


def test_a_registry_that_does_not_answer_gives_no_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        tracking_at("http://127.0.0.1:9"),
        pytest.raises(Unavailable, match="MLflow does not answer"),
        lock.acquire("a", "ann@one"),
    ):
        pytest.fail("there is no registry")
