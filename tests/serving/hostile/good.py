"""The well-behaved clients: calls at a steady rate, with a deadline of two seconds and the usual retries."""

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.serving.hostile.good_http import HttpClients
from twinspire.serving.client import RetrievalClient

DEADLINE = 2.0  # seconds, retries included
SPARE = 5.0  # seconds beyond it, after which a call counts as one that does not end
K = 10
STREAM_EVERY = 10  # calls, of which one is a stream
QUERIES = ("bavuti xelike mopy", "nusora tivuxe", "zobake limonu")


@dataclass
class Answered:
    """What became of the calls of one client; safe to add to from several threads.

    Args:
        rounds: rounds of the attack, of equal length.

    Attributes:
        calls: that were made in each round.
        answered: of them.
        seconds: of each that was answered.
        errors: kind of error to number of calls.
        texts: kind of error to the text of the first.
        longest_gap: seconds in which no call was answered.
    """

    rounds: int
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    texts: dict[str, str] = field(default_factory=dict)
    longest_gap: float = 0.0

    def __post_init__(self) -> None:
        self.calls, self.answered = [0] * self.rounds, [0] * self.rounds
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def add(self, number: int, seconds: float, error: Exception | None) -> None:
        """Note a call that is over, and was begun in the round of this number."""
        with self._lock:
            self.calls[number] += 1
            now = time.monotonic()
            if error is None:
                self.longest_gap = max(self.longest_gap, now - self._last)
                self._last = now
                self.seconds.append(seconds)
                self.answered[number] += 1
                return
            kind = type(error).__name__
            self.errors[kind] += 1
            self.texts.setdefault(kind, str(error)[:300])

    def document(self) -> dict[str, Any]:
        """The figures, for JSON: latencies of answered calls, and as `share` that of the worst round."""
        gap = max(self.longest_gap, time.monotonic() - self._last)
        p50, p99 = np.percentile(self.seconds, (50, 99)) * 1000 if self.seconds else (None, None)
        shares = [round(self.answered[n] / calls, 5) if calls else 0.0 for n, calls in enumerate(self.calls)]
        return {
            "calls": sum(self.calls),
            "answered": len(self.seconds),
            "share": min(shares),
            "shares_by_round": shares,
            "p50_ms": None if p50 is None else round(float(p50), 2),
            "p99_ms": None if p99 is None else round(float(p99), 2),
            "longest_gap_seconds": round(gap, 2),
            "errors": dict(self.errors),
            "error_texts": self.texts,
        }


def on_cores(others: bool, client: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The figures of a client in a process of its own.

    Args:
        others: whether the process leaves the core on which it was started, and takes all others.
        client: one of those below.
        arguments: of the client.
    """
    if others:
        started = os.sched_getaffinity(0)
        os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - started)
    return client(*arguments)


def one_connection(address: str, rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Calls on one long-lived connection."""
    with RetrievalClient(address, timeout=DEADLINE) as client:

        @contextmanager
        def same() -> Iterator[RetrievalClient]:
            yield client

        return _ask(same, rate, seconds, rounds)


def over_http(address: str, rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Calls of the HTTP gateway; `repeats` of them were sent again, as it had closed their connection."""
    clients = HttpClients(address, DEADLINE)
    return {**_ask(clients, rate, seconds, rounds), "repeats": clients.repeats}


def new_connections(address: str, rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Each call on a connection of its own."""
    return _ask(lambda: RetrievalClient(address, timeout=DEADLINE), rate, seconds, rounds)


def _ask(connect: Any, rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Begin `rate` calls a second, however long earlier ones take."""
    found, count = Answered(rounds), int(rate * seconds)

    def ask(number: int) -> None:
        started = time.monotonic()
        error: Exception | None = None
        try:
            with connect() as client:
                error = _checked(client, number)
                # HTTP's timeout is that of one read.
                if error is None and time.monotonic() - started > DEADLINE:
                    error = TimeoutError("the answer came after its deadline")
        except Exception as failure:  # every failure counts, whatever it is
            error = failure
        found.add(number * rounds // count, time.monotonic() - started, error)

    start = time.monotonic()
    pool = ThreadPoolExecutor(math.ceil(rate * DEADLINE * 1.5))
    calls = {}
    for number in range(count):
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        calls[pool.submit(ask, number)] = number
    # gRPC's client has been seen to wait without end for a stream that is long past its deadline.
    for each in wait(calls, timeout=DEADLINE + SPARE).not_done:
        late = TimeoutError("the call did not end, though its deadline has passed")
        found.add(calls[each] * rounds // count, DEADLINE + SPARE, late)
    pool.shutdown(wait=False, cancel_futures=True)
    return found.document()


def _checked(client: Any, number: int) -> Exception | None:
    """One call, each tenth a stream of three queries; an answer of another size is an error, too.

    Raises:
        TwinspireError: the call failed.
    """
    if number % STREAM_EVERY:
        answers = [client.search(QUERIES[number % len(QUERIES)], k=K)]
    else:
        answers = list(client.search_stream(QUERIES, k=K, timeout=DEADLINE))
    expected = 1 if number % STREAM_EVERY else len(QUERIES)
    sizes = [len(answer.hits) for answer in answers]
    return None if sizes == [K] * expected else ValueError(f"expected {expected} x {K} items, got {sizes}")
