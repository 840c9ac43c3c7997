"""How many calls of one method may be open."""

from collections.abc import Callable

import pytest

from twinspire.protos.errors import Overloaded
from twinspire.serving.engine.stream_call import OpenCalls


class OpenCall:
    """A call of one connection, that a test ends."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self._callbacks: list[Callable[[], None]] = []

    def peer(self) -> str:
        return self._connection

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return True

    def end(self) -> None:
        for each in self._callbacks:
            each()


def entered(calls: OpenCalls, connection: str) -> OpenCall:
    call = OpenCall(connection)
    calls.enter(call)  # type: ignore[arg-type]
    return call


def test_a_connection_and_the_worker_have_as_many_open_as_they_may() -> None:
    calls = OpenCalls("Changes", 2, 3)
    first = entered(calls, "a")
    entered(calls, "a")
    with pytest.raises(Overloaded, match="a connection may have 2 calls of Changes open"):
        entered(calls, "a")
    other = entered(calls, "b")
    with pytest.raises(Overloaded, match="a worker may have 3 calls of Changes open"):
        entered(calls, "b")
    other.end()
    entered(calls, "c").end()
    first.end()
    entered(calls, "a")
    with pytest.raises(Overloaded, match="a connection"):  # refused calls have left nothing behind
        entered(calls, "a")
    entered(calls, "d")


def test_without_a_bound_of_the_worker_each_connection_has_its_own() -> None:
    calls = OpenCalls("Watch", 1)
    for n in range(100):
        entered(calls, str(n))
