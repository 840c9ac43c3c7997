"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


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
