"""What a measurement sends, and what it finds."""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.load.frames import Status

Check = Callable[[int, bytes], None]
CHECKED = 20  # one answer of so many is looked at


@dataclass(frozen=True)
class Requests:
    """Requests of one method, made beforehand.

    Args:
        path: of the method.
        messages: as gRPC writes them, at least one.
        queries: in each message.
        check: looks at an answer: the number of its message, and its bytes; nobody does if not given.
    """

    path: str
    messages: Sequence[bytes]
    queries: int = 1
    check: Check | None = None


@dataclass
class Measured:
    """What came back within some time.

    Args:
        seconds: that were measured.
        queries: in each call.
        offered: calls that should have been made.
        latencies: seconds of each call that was answered within the time.
        left_over: the same of those that were answered after it.
        given_up: calls that were never sent, for their clients went before there was room.
        until: when the time ends, on the clock of `add`.
        lags: seconds from when a call should have been made until it was.
        codes: how calls ended, by the name of gRPC's code.
        messages: the first text that came with each code.
    """

    seconds: float
    queries: int = 1
    offered: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    left_over: "array[float]" = field(default_factory=lambda: array("d"))
    given_up: int = 0
    until: float = math.inf
    lags: "array[float]" = field(default_factory=lambda: array("d"))
    codes: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)

    def add(self, status: Status, latency: float, now: float = 0.0) -> None:
        """A call has ended after so many seconds."""
        self.codes[status.code] += 1
        if status.code == "OK":
            (self.latencies if now <= self.until else self.left_over).append(latency)
        else:
            self.messages.setdefault(status.code, status.message)

    def note(self, name: str, errors: dict[str, int], fine: Container[str] = ("OK",)) -> None:
        """Add up the calls that did not end well, under a name, their code and the text of the first."""
        for code, count in self.codes.items():
            if code not in fine:
                key = f"{name}: {code}: {self.messages.get(code, '')}"
                errors[key] = errors.get(key, 0) + count

    @property
    def rps(self) -> float:
        """Calls answered a second."""
        return len(self.latencies) / self.seconds

    @property
    def qps(self) -> float:
        """Queries answered a second."""
        return self.rps * self.queries

    @property
    def errors(self) -> dict[str, int]:
        """How many calls ended otherwise than well, by code."""
        return {code: count for code, count in sorted(self.codes.items()) if code != "OK"}

    def percentile_us(self, percent: float) -> float:
        """Microseconds within which so many percent of the answers came; NaN where there are none."""
        return float(np.percentile(self.latencies, percent)) * 1e6 if self.latencies else float("nan")

    def lag_us(self, percent: float) -> float:
        """The same of the generator's own delays."""
        return float(np.percentile(self.lags, percent)) * 1e6 if self.lags else float("nan")
