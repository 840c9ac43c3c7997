"""Connections to one server of this machine, and the loop that they share; one thread."""

import gc
import selectors
import time
from collections.abc import Callable
from types import TracebackType

from protos.errors import InvalidInput, Unavailable
from serving.address import host_of, is_loopback
from serving.load import frames
from serving.load.connection import Call, Connection
from serving.load.frames import Status, Statuses

Finished = Callable[[Connection, Call, Status], None]
DRAIN_SECONDS = 10.0  # for what is still on its way when a measurement ends
MOST_CONNECTIONS = 1024


class Loop:
    """So many connections, each opened anew when it is lost. Garbage is not collected meanwhile.

    with Loop("127.0.0.1:50051", 16, finished) as loop: ...

    Args:
        address: of a server on this machine.
        count: of connections.
        finished: called when a call is over.

    Raises:
        InvalidInput: the server is on another machine, or the connections are too many.
        Unavailable: nobody answers there.
    """

    def __init__(self, address: str, count: int, finished: Finished) -> None:
        self._host, self._port = host_of(address), int(address.rpartition(":")[2])
        if not is_loopback(self._host):
            raise InvalidInput("address", f"{address} is not this machine; load stays on loopback")
        if not 1 <= count <= MOST_CONNECTIONS:
            raise InvalidInput("connections", f"expected 1 to {MOST_CONNECTIONS}, got {count}")
        self._authority = address
        self._finished = finished
        self._statuses = Statuses()
        self._selector = selectors.DefaultSelector()
        self._heads: dict[tuple[str, int], bytes] = {}
        self._connections: list[Connection] = []
        try:
            for slot in range(count):
                self._connections.append(self._open(slot))
        except Unavailable:
            self.close()
            raise

    def connection(self, slot: int) -> Connection:
        """The connection of a slot, a new one where the last was lost.

        Raises:
            Unavailable: the server is gone.
        """
        connection = self._connections[slot]
        if not connection.usable:
            if not connection.calls:
                connection.close()
            connection = self._connections[slot] = self._open(slot)
        return connection

    def open_connections(self) -> list[Connection]:
        """All that are open, those among them that the server takes no new call on."""
        return [key.data for key in self._selector.get_map().values()]

    def head(self, path: str, timeout_ms: int) -> bytes:
        """The headers of a request; each is made once."""
        key = (path, timeout_ms)
        if key not in self._heads:
            self._heads[key] = frames.head(path, self._authority, timeout_ms)
        return self._heads[key]

    def turn(self, timeout: float) -> None:
        """Deal with what has come in, and wait so many seconds for it where there is nothing.

        The system rounds the wait up to milliseconds.
        """
        for key, events in self._selector.select(timeout):
            connection: Connection = key.data
            if not connection.closed:
                connection.ready(events)
                if not connection.usable and not connection.calls:
                    connection.close()

    def drain(self) -> None:
        """Wait until nothing is on its way, so that the next measurement finds a server that is idle."""
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until and any(each.calls for each in self.open_connections()):
            self.turn(0.05)

    def close(self) -> None:
        """Close all connections."""
        for connection in self.open_connections():
            connection.close()
        self._selector.close()

    def __enter__(self) -> "Loop":
        gc.collect()
        gc.disable()  # a collection takes as long as a hundred requests
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gc.enable()
        self.close()

    def _open(self, slot: int) -> Connection:
        return Connection(self._host, self._port, self._selector, self._finished, self._statuses, slot)
