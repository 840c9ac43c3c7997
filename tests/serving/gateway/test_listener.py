"""How often a client may connect, while the event loop keeps up and while it is behind."""

from collections.abc import Callable
from typing import Any

import pytest

from twinspire.serving.gateway.listener import (
    BEHIND_SECONDS,
    LEAST_SHARE,
    SAVED_SECONDS,
    TICK_SECONDS,
    ConnectionRate,
)


class Loop:
    """The clock and the timers of an event loop, moved by the test."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        assert seconds == TICK_SECONDS
        self.timers.append((function, arguments))

    def tick(self, late: float = 0.0) -> None:
        """The time of the timers, and how late they are called."""
        self.now += TICK_SECONDS + late
        timers, self.timers = self.timers, []
        for function, arguments in timers:
            function(*arguments)


def taken(rate: ConnectionRate, client: str) -> int:
    """Connections that a client may open at once."""
    count = 0
    while rate.take(client):
        count += 1
    return count


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_a_client_may_connect_as_often_as_it_has_saved_up(loop: Loop) -> None:
    rate = ConnectionRate(50, loop)  # type: ignore[arg-type]
    assert 50 * SAVED_SECONDS <= taken(rate, "a") <= 50 * SAVED_SECONDS + 1
    assert rate.take("b")
    loop.now += 1
    assert 49 <= taken(rate, "a") <= 51


@pytest.mark.parametrize("most", [2, 50, 100_000])
def test_the_rate_falls_while_the_loop_is_behind_and_rises_again(loop: Loop, most: int) -> None:
    rate = ConnectionRate(most, loop)  # type: ignore[arg-type]
    rate.take("a")
    for _ in range(20):
        loop.tick(late=2 * BEHIND_SECONDS)
    assert rate.per_second == pytest.approx(most * LEAST_SHARE)
    least = most * LEAST_SHARE * SAVED_SECONDS
    assert least <= taken(rate, "b") <= least + 1
    for _ in range(100):
        loop.tick()
    assert rate.per_second == most
    assert not loop.timers  # the loop is watched only while the rate is below its most
