"""Waiting for what another process or thread does, and time that a test lets pass."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def wait_until(what: Callable[[], T], seconds: float = 30.0, otherwise: Callable[[], object] = str) -> T:
    """What a function returns, as soon as that is true; fails if it does not become so in time.

    Between two calls it sleeps four times as long as a call takes, up to a fifth of a second: what it waits
    for needs the processor.

    Args:
        otherwise: returns what the failure says, such as a log.
    """
    until = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        if found := what():
            return found
        now = time.monotonic()
        assert now < until, f"it did not happen in time: {otherwise()}"
        time.sleep(min(max(0.02, 4 * (now - asked)), 0.2))
