"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(what: Callable[[], T], seconds: float = 30.0, otherwise: Callable[[], object] = str) -> T:
    """What a function returns, as soon as that is true; fails if it does not become so in time.

    Args:
        otherwise: returns what the failure says, such as a log.
    """
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"it did not happen in time: {otherwise()}"
        time.sleep(0.02)
    return found
