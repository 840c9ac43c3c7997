"""What happens when more is asked than can be answered: who is refused, how soon, and who is not."""

import math
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from tests.helpers.serving.raw import Raw
from tests.helpers.serving.reacting import GOOD, ONE, SEARCH, Reacting, reacting, soon
from tests.helpers.waiting import Clock
from tests.serving.conftest import ROOT
from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.engine import admission
from twinspire.serving.engine.admission import (
    CALM_BATCHES,
    CALM_SECONDS,
    COST,
    FRESH,
    IDLE_SHARE,
    LASTING_SECONDS,
    ONSET_SECONDS,
    SAVED,
    SHARE,
    SHORT,
    OverloadDetector,
    RefusalQueue,
)
from twinspire.serving.engine.limits import WorkerLimits
from twinspire.serving.retrieval.retriever import Retriever


class Calls:
    """Calls that came one after the other, and what became of each."""

    def __init__(self, clock: Clock) -> None:
        self.refused: list[int | str] = []
        self.answered: list[int | str] = []
        self.refusals = RefusalQueue(clock)

    def come(self, *numbers: int | str) -> None:
        """There is no room for these."""
        for n in numbers:
            self.refusals.add(self._note(self.refused, n), self._note(self.answered, n))

    def _note(self, where: list[int | str], number: int | str) -> Callable[[], None]:
        return lambda: where.append(number)


AT_ONCE = round(SAVED / COST) - 1  # refusals that a quiet service has saved up; the last is lost in rounding


def test_refusing_is_quick_until_it_is_all_that_is_done() -> None:
    clock = Clock()
    calls = Calls(clock)
    calls.come(*range(AT_ONCE + 300))
    assert calls.refused == [*range(AT_ONCE)]
    assert len(calls.refusals) == 300
    for share in (SHARE, IDLE_SHARE):
        before = len(calls.refused)
        clock.now += 100 * COST / share
        calls.refusals.reject(share)
        assert len(calls.refused) - before == pytest.approx(100, abs=1)
    assert calls.refused == [*range(len(calls.refused))]  # those who have waited longest
    assert calls.answered == []


def test_when_the_overload_is_over_the_fresh_are_answered_and_others_hear_that_they_are_not() -> None:
    clock = Clock()
    calls = Calls(clock)
    calls.come(*range(AT_ONCE))
    calls.come("stale")
    clock.now += FRESH * 1.01
    calls.refusals._saved = 0.0  # or one of those that come now would be refused at once
    calls.come("first", "second", "third")
    calls.refusals.drain(2)
    assert calls.answered == ["third", "second"]
    assert calls.refused[AT_ONCE:] == ["stale", "first"]
    assert len(calls.refusals) == 0
    calls.come("later")
    calls.refusals.drain(0)
    assert calls.refused[-1] == "later"
    calls.refusals._saved = 0.0
    calls.come("kept", "answered")
    calls.refusals.drain(1, keep_fresh=True)
    assert (calls.answered[-1], calls.refused[-1], len(calls.refusals)) == ("answered", "later", 1)
    clock.now += FRESH * 1.01
    calls.refusals.drain(1, keep_fresh=True)
    assert (calls.answered[-1], calls.refused[-1], len(calls.refusals)) == ("answered", "kept", 0)


def test_a_long_flood_of_calls_does_not_delay_later_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WAITING", 10)
    clock = Clock()
    calls = Calls(clock)
    for n in range(200_000):  # 20,000 calls a second for 10 s
        clock.now += 1 / 20_000
        calls.come(n)
    assert len(calls.refusals) == 10
    clock.now += (2 * SAVED + 20 * COST) / SHARE  # from the lower bound of the bucket to the upper one
    calls.refusals.reject()
    assert len(calls.refusals) == 0
    calls.come("later")
    assert calls.refused[-1] == "later"


class Queue:
    """Calls that come to one server at even times, and are answered at even times but in its pauses."""

    def __init__(self, long: int = 512, rate: int = 5000, answers: int = 6000) -> None:
        self.clock = Clock()
        self.overload = OverloadDetector(long, self.clock)
        self.rate, self.answers = rate, answers
        self.waiting = 0
        self._in_arrear = self._spare = 0.0

    def go(self, seconds: float, times: float = 1.0, open_calls: int = 100_000) -> list[bool]:
        """Whether there was an overload at each millisecond; of no more than so many calls may any wait."""
        told = []
        for _ in range(round(seconds * 1000)):
            self._in_arrear += self.rate * times / 1000
            self.clock.now += 0.001
            while self._in_arrear >= 1 and self.waiting < open_calls:
                self._in_arrear -= 1
                self.overload.call_arrived(self.waiting)
                self.waiting += 1
            self._in_arrear = min(self._in_arrear, self.rate / 1000 * times)
            self._spare = min(self._spare + self.answers / 1000, 32.0 + self.answers / 1000)
            while self._spare >= 32 and self.waiting:
                self._spare -= 32
                self.waiting -= min(32, self.waiting)
                self.overload.batch_answered()
            told.append(self.overload.is_on)
        return told

    def pause(self, seconds: float) -> None:
        """Nothing is read or answered, but calls are made."""
        self.clock.now += seconds
        for _ in range(round(seconds * self.rate)):
            self.overload.call_arrived(self.waiting)
            self.waiting += 1


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.35])
def test_what_comes_at_once_after_a_pause_is_no_overload(seconds: float) -> None:
    queue = Queue()
    assert not any(queue.go(2.0))
    for _ in range(3):
        queue.pause(seconds)
        assert queue.waiting >= seconds * 5000
        assert not any(queue.go(2.0))
        assert queue.waiting < SHORT


def test_an_overload_is_told_as_soon_as_the_queue_has_been_long_for_a_moment() -> None:
    queue = Queue()
    queue.go(2.0)
    told = queue.go(0.5, times=10, open_calls=1024)
    assert 0.01 < told.index(True) / 1000 < 0.01 + 2 * ONSET_SECONDS
    assert all(told[told.index(True) :][:100])


def test_a_load_little_above_what_is_answered_is_an_overload_in_time() -> None:
    queue = Queue(rate=6600)
    told = queue.go(3.0)
    assert told.index(True) / 1000 == pytest.approx(512 / 600, abs=0.15)


def test_an_overload_lasts_from_its_last_refusal_and_through_a_pause() -> None:
    clock = Clock()
    overload = OverloadDetector(8, clock)
    overload.call_refused()
    assert overload.is_on
    for _ in range(CALM_BATCHES):
        overload.batch_answered()
    clock.now += LASTING_SECONDS * 0.9
    assert overload.is_on
    overload.call_refused()
    clock.now += LASTING_SECONDS * 5
    for _ in range(CALM_BATCHES - 1):
        overload.batch_answered()
    assert overload.is_on  # so few batches since: the machine has paused
    overload.batch_answered()
    assert not overload.is_on
    overload.call_refused()
    clock.now += LASTING_SECONDS + CALM_SECONDS
    assert not overload.is_on  # nobody calls any more


def test_in_an_overload_no_connection_has_more_than_its_share(retriever: Retriever) -> None:
    with reacting(retriever, queue=512, batch=32) as served, _connection(served) as greedy:
        stub: Any = retrieval_pb2_grpc.RetrievalStub(greedy)
        with ThreadPoolExecutor(8) as pool, served.held(greedy):
            _overload(served, 60.0)
            calls = [stub.Search.future(GOOD, timeout=30) for _ in range(20)]
            modest = pool.map(lambda _: _ask(served), range(8))
        assert [*modest] == [StatusCode.OK] * 8
        codes = [each.code() for each in calls]
        assert codes.count(StatusCode.OK) == WorkerLimits(queue=512, batch=32).fair_share == 1
        assert codes.count(StatusCode.RESOURCE_EXHAUSTED) == 19
        _overload(served, 0)
        codes = [each.code() for each in [stub.Search.future(GOOD, timeout=5) for _ in range(20)]]
        assert codes == [StatusCode.OK] * 20


def test_a_burst_that_turns_out_to_be_an_overload_is_shed(retriever: Retriever) -> None:
    with (
        reacting(retriever, queue=64, backlog=1000, batch=4) as served,
        _connection(served) as channel,
    ):
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        with served.held(channel):
            overload = served.loop.admission.overload
            # The queue has been long for a while by the time that the burst is read.
            overload._since, overload._long_at = time.monotonic() - 1, time.monotonic() + 60.0
            overload._rate = 10.0  # calls a second before, so the first calls count as a backlog
            calls = [stub.Search.future(GOOD, timeout=30) for _ in range(100)]
        codes = [each.code() for each in calls]
        answered = [n for n, code in enumerate(codes) if code is StatusCode.OK]
        assert codes.count(StatusCode.RESOURCE_EXHAUSTED) == 100 - len(answered)
        assert 5 <= len(answered) < 64  # a batch and a half, and what has come while there was room again
        # Without shedding the first 64 would be answered. A batch may be, before the overload is noticed.
        assert codes.index(StatusCode.RESOURCE_EXHAUSTED) <= 2 * 4
        assert served.snapshot("refused")["no_room"] == 100 - len(answered)


def test_a_fresh_call_that_waits_for_its_refusal_is_answered_if_room_comes_free(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FRESH", 30.0)
    # With the usual onset a pause of the machine is an overload, which sheds the oldest jobs.
    monkeypatch.setattr(admission, "ONSET_SECONDS", 30.0)
    with reacting(retriever, queue=6, batch=3) as served, _connection(served) as channel:
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        with served.held(channel):
            served.loop.admission.refusals._saved = -60.0  # all time for refusing is spent, for long
            calls = [stub.Search.future(GOOD, timeout=30) for _ in range(30)]
        codes = [each.code() for each in calls]
        fresh = codes[6:].count(StatusCode.OK)  # more than have room at once, if messages come one by one
        refused = [StatusCode.RESOURCE_EXHAUSTED] * (24 - fresh)
        assert fresh >= 6
        assert codes == [StatusCode.OK] * 6 + refused + [StatusCode.OK] * fresh
        assert soon(lambda: served.snapshot("in_flight") == 0)


def test_refused_calls_wait_for_the_room_of_calls_that_await_their_messages(
    retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FRESH", 30.0)
    monkeypatch.setattr(admission, "MESSAGE_SECONDS", 30.0)
    # With the usual onset a pause of the machine is an overload, in which fewer messages are accepted.
    monkeypatch.setattr(admission, "ONSET_SECONDS", 30.0)
    with reacting(retriever, queue=8) as served, Raw(served.address) as raw:
        served.loop.admission.refusals._saved = -60.0
        accepted = [raw.begin(SEARCH) for _ in range(8)]
        assert served.becomes("in_flight", 8)
        refused = [raw.begin(SEARCH) for _ in range(4)]
        assert soon(lambda: len(served.loop.admission.refusals) == 4)
        time.sleep(0.2)  # many empty polls, of which none may refuse them: they have not come too late
        assert len(served.loop.admission.refusals) == 4
        late, *others = accepted + refused
        for stream in others:
            raw.message(stream, ONE, last=True)
        assert [raw.status(stream).code for stream in others] == ["OK"] * 11  # while the first takes room
        raw.message(late, ONE, last=True)
        assert raw.status(late).code == "OK"
    assert served.snapshot("in_flight") == 0


@pytest.mark.parametrize("given", [None, "tcp_rcv_lowat"])
def test_the_poller_is_one_that_grpc_knows_and_the_variable_is_the_operators(given: str | None) -> None:
    code = (
        "import os, twinspire.serving.server, grpc\ngrpc.server(None)\nprint(os.environ['GRPC_EXPERIMENTS'])"
    )
    environment = {} if given is None else {"GRPC_EXPERIMENTS": given}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    assert done.stdout.strip() == ("-event_engine_listener" if given is None else given)
    assert "experiment" not in done.stderr


class _Arriving:
    """A call in gRPC's core, as far as a dispatcher uses one that it refuses; `code` is its status."""

    metadata = ()
    deadline = math.inf

    def __init__(self, path: str) -> None:
        self.path, self.connection = path, b"ipv4:192.0.2.1:5000"
        self.code: int | None = None

    def reject(self, code: int, *_: Any) -> None:
        self.code = code


def test_calls_without_a_method_or_a_token_delay_no_refusal_and_make_no_overload_last(
    retriever: Retriever,
) -> None:
    """Anyone can send them, and they wait for their refusal as well."""
    with reacting(retriever, queue=64) as served:
        dispatcher, admission = served.loop._dispatcher, served.loop.admission
        served.loop.stop(5.0)  # so that this thread is the only one
        dispatcher.refused_at = 0.0
        for _ in range(1000):
            dispatcher.dispatch(_Arriving("/nothing"))  # type: ignore[arg-type]
        assert admission.denials
        until = admission.overload.until = time.monotonic() + 60.0
        few = [_Arriving(SEARCH) for _ in range(5)]
        admission._calls_of[few[0].connection] = 100  # more than its share, although nothing is queued
        for each in few[1:]:
            dispatcher.dispatch(each)  # type: ignore[arg-type]
        assert admission.overload.until == until
        served.loop._batcher.short_queries = 64
        dispatcher.dispatch(few[0])  # type: ignore[arg-type]
        assert {each.code for each in few} == {StatusCode.RESOURCE_EXHAUSTED.value[0]}
        admission.overload.until = -math.inf
        served.loop._batcher.short_queries = 0
        while admission.denials:
            admission.refuse_waiting()


def _connection(served: Reacting) -> grpc.Channel:
    """A channel that shares its connection with no other."""
    return grpc.insecure_channel(served.address, [("grpc.use_local_subchannel_pool", 1)])


def _ask(served: Reacting) -> StatusCode:
    with _connection(served) as channel:
        stub: Any = retrieval_pb2_grpc.RetrievalStub(channel)
        asked = stub.Search.future(GOOD, timeout=5)
        return asked.code()  # type: ignore[no-any-return]


def _overload(served: Reacting, seconds: float) -> None:
    served.loop.admission.overload.until = time.monotonic() + seconds if seconds else -math.inf
