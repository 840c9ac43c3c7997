"""The release lock: one holder at a time, told to the others, broken safely when its holder has died."""

import threading
import time
import uuid
from pathlib import Path

import mlflow
import pytest

from export import lock
from protos.errors import Unavailable
from tests.stdlib import tracking_at


def names() -> list[str]:
    return sorted(model.name for model in mlflow.MlflowClient().search_registered_models())


def left_by(who: str) -> lock.Lock:
    """The lock of a process that died while it held it."""
    left = lock.Lock("a", uuid.uuid4().hex)
    lock._take(left, who, time.monotonic())
    return left


def test_it_is_there_while_it_is_held_and_gone_after(store: str) -> None:
    with lock.held("a", "ann@one") as held:
        held.check()
        assert names() == ["a.release-lock"]
        assert lock.holder("a") == "ann@one"
        with lock.held("b", "bob@two"):
            assert lock.holder("b") == "bob@two"
    assert names() == []
    assert lock.holder("a") == ""
    with pytest.raises(KeyError), lock.held("a", "ann@one"):
        raise KeyError
    assert names() == []


def test_who_comes_second_is_told_who_holds_it_and_what_to_do(store: str) -> None:
    with lock.held("a", "ann@one") as first:
        with pytest.raises(Unavailable) as told, lock.held("a", "bob@two", wait_s=0.0):
            pytest.fail("both hold it")
        for part in ("a: ann@one holds the release lock since 2", "try again later", "a.release-lock"):
            assert part in str(told.value)
        first.check()  # it is not touched by who did not get it


def test_who_comes_second_gets_it_when_the_first_lets_go(store: str) -> None:
    order: list[str] = []
    asks = threading.Event()

    def second() -> None:
        asks.set()
        with lock.held("a", "bob@two"):
            order.append("second")

    with lock.held("a", "ann@one"):
        thread = threading.Thread(target=second)
        thread.start()
        assert asks.wait(10)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert names() == []


def test_one_that_was_left_is_broken(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_by("ann@one")
    monkeypatch.setattr(lock, "STALE_S", 0.0)
    with lock.held("a", "bob@two") as held:
        assert lock.holder("a") == "bob@two"
        assert names() == ["a.release-lock", f"a.release-lock-{left.token}"]
        monkeypatch.undo()
        with pytest.raises(Unavailable, match="was taken over"):
            left.check()
        lock._release(left)  # the first wakes up: what it lets go is not the second's
        held.check()
    assert names() == [f"a.release-lock-{left.token}"]


def test_of_two_who_would_break_it_one_does(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_by("ann@one")
    seen = lock._touch("a")
    assert seen is not None
    monkeypatch.setattr(lock, "STALE_S", 0.0)
    with lock.held("a", "bob@two") as held:
        lock._break("a", seen)  # a third, who saw the same, comes too late
        monkeypatch.undo()
        held.check()
        assert lock.holder("a") == "bob@two"
    assert names() == [f"a.release-lock-{left.token}"]


def test_a_holder_that_was_too_slow_goes_no_further(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock.held("a", "ann@one") as held:
        monkeypatch.setattr(lock, "STALE_S", 0.0)
        lock._touch("a")
        with pytest.raises(Unavailable, match="gave up after holding the release lock"):
            held.check()


def test_many_at_once_hold_it_in_turn(store: str) -> None:
    inside, most = [0], [0]
    done: list[int] = []

    def work(n: int) -> None:
        for _ in range(3):
            with lock.held("a", f"user-{n}@host"):
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
        lock.held("a", "ann@one"),
    ):
        pytest.fail("nobody gave it")
