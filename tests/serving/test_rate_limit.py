"""Rate limits: never more than promised, for each client, in threads and in forked processes together."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.waiting import Clock
from tests.serving.conftest import ROOT
from twinspire.protos.errors import Overloaded
from twinspire.serving.rate_limit import SLACK_SECONDS, RateLimit

START = 1e7  # seconds: a machine that has been up for four months


def limit_with(clock: Clock, per_second: float, burst: int, slots: int = 1 << 12) -> RateLimit:
    return RateLimit(per_second, burst, slots, clock)


def wait_for(limit: RateLimit, cost: int = 1, client: str = "a") -> float:
    """Seconds until a request would be let through; 0 if it has been."""
    try:
        limit.admit(client, cost)
    except Overloaded as refusal:
        return refusal.retry_after
    return 0.0


def test_a_burst_then_the_rate() -> None:
    clock = Clock(START)
    limit = limit_with(clock, per_second=10, burst=3)
    assert [wait_for(limit) for _ in range(3)] == [0, 0, 0]
    assert wait_for(limit) == pytest.approx(0.1)
    clock.now += 0.06
    assert wait_for(limit) == pytest.approx(0.04)
    clock.now += 0.04
    assert wait_for(limit) == 0
    assert wait_for(limit, client="b") == 0
    clock.now += 1000
    assert [wait_for(limit) > 0 for _ in range(4)] == [False, False, False, True]


def test_a_batch_costs_its_queries_and_a_refusal_costs_nothing() -> None:
    clock = Clock(START)
    limit = limit_with(clock, per_second=10, burst=20)
    assert wait_for(limit, cost=15) == 0
    for _ in range(5):
        assert wait_for(limit, cost=8) == pytest.approx(0.3)
    assert wait_for(limit, cost=5) == 0


def test_a_batch_above_the_burst_needs_all_of_it_and_is_paid_in_full() -> None:
    clock = Clock(START)
    limit = limit_with(clock, per_second=10, burst=20)
    assert wait_for(limit, cost=100) == 0
    assert wait_for(limit) == pytest.approx(8.1)
    assert wait_for(limit, cost=100) == pytest.approx(10)
    clock.now += 9.9
    assert wait_for(limit) == 0
    assert wait_for(limit, cost=100) == pytest.approx(0.2)


def test_what_is_charged_afterwards_delays_the_next_request() -> None:
    clock = Clock(START)
    limit = limit_with(clock, per_second=10, burst=3)
    assert wait_for(limit) == 0
    limit.charge("a", 50)  # above the burst, and not refused
    assert wait_for(limit) == pytest.approx(4.9)
    assert wait_for(limit, client="b") == 0
    clock.now += 4.9
    assert wait_for(limit) == 0
    clock.now += 1000
    limit.charge("a", 1)  # of the burst, which has come back
    assert [wait_for(limit) > 0 for _ in range(3)] == [False, False, True]


requests = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 3)), st.integers(1, 40)), min_size=1, max_size=40
)


@given(requests, st.floats(0.5, 1000), st.integers(1, 20), st.booleans())
def test_no_window_holds_more_than_burst_and_rate(
    requests: list[tuple[float, int]], per_second: float, burst: int, obedient: bool
) -> None:
    clock = Clock(START)
    limit = limit_with(clock, per_second, burst)
    given: list[tuple[float, int]] = []
    for gap, cost in requests:
        clock.now += gap
        wait = wait_for(limit, cost)
        if wait and obedient:
            clock.now += wait
            assert wait_for(limit, cost) == 0
        if not wait or obedient:
            given.append((clock.now, cost))
    for first, (start, _) in enumerate(given):
        total, largest = 0, burst
        for end, cost in given[first:]:
            total, largest = total + cost, max(largest, cost)
            assert total <= largest + per_second * (end - start + 2 * SLACK_SECONDS)


def test_memory_is_bounded_and_clients_of_one_slot_share() -> None:
    limit = limit_with(Clock(START), per_second=1, burst=5, slots=1)
    assert [wait_for(limit, client=f"client-{n}") > 0 for n in range(6)] == [False] * 5 + [True]


FORKED = """
import json, os, time
from twinspire.protos.errors import Overloaded
from twinspire.serving.rate_limit import RateLimit

def attempts(count, pause=0.0):
    admitted = 0
    for _ in range(count):
        time.sleep(pause)
        try:
            limit.admit("a")
            admitted += 1
        except Overloaded:
            pass
    return admitted

def children(count, each, pause=0.0):
    pipes = []
    for _ in range(count):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, str(attempts(each, pause)).encode())
            os._exit(0)
        os.close(write)
        pipes.append(read)
    return [int(os.read(pipe, 99)) for pipe in pipes]

limit = RateLimit(per_second=0.001, burst=100)
in_turn = [*children(1, 70), *children(1, 70), attempts(70)]
limit = RateLimit(per_second=0.001, burst=1000)
print(json.dumps({"in_turn": in_turn, "at_once": children(2, 900, pause=1e-4)}))
"""


def test_forked_processes_share_one_allowance() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["in_turn"] == [70, 30, 0]
    # Races give a few more, how many depends on the machine; apart it would be 1,800.
    assert 1000 <= sum(found["at_once"]) < 1400
    assert min(found["at_once"]) > 0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"per_second": 0.0, "burst": 1}, "per_second"),
        ({"per_second": float("inf"), "burst": 1}, "per_second"),
        ({"per_second": float("nan"), "burst": 1}, "per_second"),
        ({"per_second": 1.0, "burst": 0}, "burst"),
        ({"per_second": 1.0, "burst": 1, "slots": 0}, "slots"),
    ],
)
def test_a_limit_out_of_range_is_refused(arguments: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        RateLimit(**arguments)  # type: ignore[arg-type]


def test_a_cost_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="cost: expected at least 1, got -5"):
        RateLimit(1, 1).admit("a", cost=-5)
