"""A thread for what would hold the event loop for long: to parse large bodies, and to write large answers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

Result = TypeVar("Result")
SWITCH_SECONDS = 1e-3  # for which the event loop waits for the interpreter while the thread works


class HeavyWork:
    """One thread, for one piece of work at a time; each client has at most one piece in its line.

    The thread shares the interpreter with the event loop, which gets it back within `SWITCH_SECONDS` where
    the process has set that (`sys.setswitchinterval`). A second thread would take as much from it again.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "heavy-work")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, client: str, function: Callable[..., Result], *given: object) -> Result:
        """What a function returns or raises, which is called on the thread when it is the client's turn."""
        turn = self._turns.setdefault(client, asyncio.Lock())
        async with turn:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *given)

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
