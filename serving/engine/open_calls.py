"""Bounds the calls of one method that stay open: of each connection, and of the worker."""

import math
from collections import Counter

from protos.errors import Overloaded
from serving.engine.call import Call

RETRY_SECONDS = 1.0


class OpenCalls:
    """The open calls of one method; for the event loop's thread.

    Args:
        method: its name, for errors.
        per_connection: calls that one connection may have open.
        per_worker: calls that the worker may have open.
    """

    def __init__(self, method: str, per_connection: int, per_worker: float = math.inf) -> None:
        self._method, self._per_connection, self._per_worker = method, per_connection, per_worker
        self._of_connection: Counter[str] = Counter()
        self._open = 0

    def enter(self, call: Call) -> None:
        """Count a call until it is over.

        Raises:
            Overloaded: its connection, or the worker, has as many calls open as are allowed.
        """
        connection = call.peer()
        if self._of_connection[connection] >= self._per_connection:
            raise self._refusal("connection", self._per_connection)
        if self._open >= self._per_worker:
            raise self._refusal("worker", self._per_worker)
        self._of_connection[connection] += 1
        self._open += 1
        call.add_callback(lambda: self._leave(connection))

    def _leave(self, connection: str) -> None:
        self._open -= 1
        self._of_connection[connection] -= 1
        if not self._of_connection[connection]:
            del self._of_connection[connection]

    def _refusal(self, owner: str, most: float) -> Overloaded:
        return Overloaded(f"a {owner} may have {most} calls of {self._method} open", RETRY_SECONDS)
