"""A thread for what would hold the event loop for long: to parse large bodies, and to write large answers."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from twinspire.serving.fair_queue import Client, Clients, FairQueue

Result = TypeVar("Result")
SWITCH_SECONDS = 1e-3  # for which the event loop waits for the interpreter while the thread works


class HeavyWork:
    """One thread, for one piece of work at a time; clients take turns by the processor time of theirs.

    The thread shares the interpreter with the event loop, which gets it back within `SWITCH_SECONDS` where
    the process has set that (`sys.setswitchinterval`). A second thread would take as much from it again.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "heavy-work")
        self._clients = Clients()
        self._queue: FairQueue[tuple[asyncio.Future[Any], Callable[[], Any]]] = FairQueue(self._clients)
        self._is_busy = False

    async def run(self, client: str, function: Callable[..., Result], *given: Any) -> Result:
        """What a function returns or raises, which is called on the thread when it is the client's turn."""
        outcome: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.add(self._clients.named(client), (outcome, partial(function, *given)))
        self._next()
        return await outcome

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        while self._queue and not self._is_busy:
            client = self._queue.first_client
            outcome, function = self._queue.take()
            if outcome.done():  # its request has been given up
                continue
            self._is_busy = True
            self._thread.submit(_timed, function).add_done_callback(partial(self._tell, client, outcome))

    def _tell(self, client: Client, outcome: "asyncio.Future[Any]", work: "Future[Any]") -> None:
        """On the thread: the event loop shall take the outcome."""
        if not work.cancelled():  # the gateway ends
            outcome.get_loop().call_soon_threadsafe(self._ended, client, outcome, work)

    def _ended(self, client: Client, outcome: "asyncio.Future[Any]", work: "Future[Any]") -> None:
        self._is_busy = False
        seconds, result, error = work.result()
        self._clients.charge(client, seconds)
        if not outcome.done():
            if error is None:
                outcome.set_result(result)
            else:
                outcome.set_exception(error)
        self._next()


def _timed(function: Callable[[], Any]) -> tuple[float, Any, Exception | None]:
    """The processor time of a call in seconds, and what it returned or raised."""
    begun = time.thread_time()
    result, error = None, None
    try:
        result = function()
    except Exception as raised:
        error = raised
    return time.thread_time() - begun, result, error
