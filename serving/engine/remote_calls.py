"""Work of calls that waits for another server, on other threads, while the event loop does something else.

Where a bundle's items are on another server, a call's queries are encoded on the event loop, and its job's
answer is a `Deferred`: a thread searches, and then the event loop makes the answer. A search may take until
shortly before the call's deadline, so that its client gets an error that names the server, and not
DEADLINE_EXCEEDED.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from twinspire.protos.errors import Overloaded
from twinspire.serving.engine.call import Call, Deferred
from twinspire.serving.segments.remote import SECONDS, within

Found = TypeVar("Found")

THREADS = 16  # calls that ask at once; others wait for one to end
MAX_QUERIES = 4096  # of the calls that ask or wait; more are refused
MARGIN = 0.9  # of the time until a call's deadline, which its work may take
RETRY_SECONDS = 0.1


class RemoteCalls:
    """Threads that wait for another server; the methods are for the event loop's thread."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None  # made by the first call, and so after a fork
        self.queries = 0  # of the calls that ask or wait

    def run(
        self, call: Call, queries: int, work: Callable[[], Found], then: Callable[[Found], Any]
    ) -> Deferred:
        """What a method returns while a thread works.

        Args:
            call: that waits; if it ends before the work has begun, there is no work.
            queries: of the call.
            work: is called on a thread; its reads take no longer than the call waits.
            then: makes the outcome of the call from the result, on the event loop's thread.

        Raises:
            Overloaded: too many queries wait.
        """
        if self.queries and self.queries + queries > MAX_QUERIES:
            text = "more searches wait for the server of the index than are allowed"
            raise Overloaded(text, RETRY_SECONDS)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "remote-call")
        until = time.monotonic() + min(SECONDS, MARGIN * (call.deadline - time.time()))

        def ask() -> Found:
            with within(until - time.monotonic()):  # the work may have waited for a thread
                return work()

        future = self._pool.submit(ask)
        deferred = Deferred(abandoned=lambda: _cancel(future))
        self.queries += queries

        def resume(done: "Future[Found]") -> None:
            self.queries -= queries
            deferred.resolve(lambda: then(done.result()))

        # No reference cycle: gRPC counts the stream of a call until the call is freed.
        future.add_done_callback(lambda done: call.call_soon(lambda: resume(done)))
        return deferred

    def stop(self) -> None:
        """End the threads; work that is under way is not waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _cancel(future: "Future[Any]") -> None:
    future.cancel()
