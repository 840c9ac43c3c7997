"""The threads that requests run on, and what happens to a request when there are too many."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from serving.batching import Arrivals

_arrived = threading.local()


class HandlerPool(ThreadPoolExecutor):
    """Threads for requests, which knows how many it has taken on, and since when each waits.

    Args:
        handlers: threads.
        queue: requests that may wait for a thread beside those that have one.
        arrivals: told of every request that has a thread.
    """

    def __init__(self, handlers: int, queue: int, arrivals: Arrivals) -> None:
        super().__init__(handlers, thread_name_prefix="handler")
        self._arrivals = arrivals
        self._handlers = handlers
        self.most = handlers + queue
        self._count = threading.Lock()
        self.in_flight = 0

    @property
    def is_full(self) -> bool:
        """Whether one more request is one too many."""
        return self.in_flight >= self.most

    def submit(self, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `handler` on a thread as soon as one is free."""
        arrived = time.perf_counter_ns()
        with self._count:
            self.in_flight += 1
            at_once = self.in_flight <= self._handlers
        expected = self._arrivals.expect() if at_once else None

        def start() -> Any:
            _arrived.ns = arrived
            self._arrivals.begin(self._arrivals.expect() if expected is None else expected)
            try:
                return handler(*args, **kwargs)
            finally:
                self._arrivals.arrived()
                with self._count:
                    self.in_flight -= 1

        return super().submit(start)


class InlinePool(ThreadPoolExecutor):
    """Runs a handler at once, on the thread that brings it: for those that only refuse."""

    def submit(self, handler: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `handler` now."""
        done: Future[Any] = Future()
        done.set_result(handler(*args, **kwargs))
        return done


def arrived_ns() -> int:
    """When the current thread's request arrived, in `time.perf_counter_ns()`; now on any other thread."""
    return int(getattr(_arrived, "ns", 0)) or time.perf_counter_ns()
