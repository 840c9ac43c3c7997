"""Bytes of answers that clients have not read: bounded for each connection, and for the worker.

A front keeps an answer in memory until the client's flow-control window has let all of it out. A client that
does not read would make the worker hold all its answers. An answer counts by its expected size from the time
when its request is accepted, until the front reports that the last byte and the status have been written, or
that the call is over. A call whose client does not read is cancelled when other calls need its bytes.

Answers of up to `UNCOUNTED` bytes do not count, so usual queries pay nothing. The bounds on open calls and
connections limit them. A stream bounds its own answers (`stream_call.py`).
"""

import time
from collections.abc import Callable
from typing import Protocol

from twinspire.protos.errors import Overloaded

UNCOUNTED = 16 << 10  # bytes
PATIENCE_SECONDS = 10.0  # after which an unread answer may be cancelled to free its bytes
RETRY_SECONDS = 0.5


class Holder(Protocol):
    """A call whose answer is counted."""

    def peer(self) -> str:
        """The client's address; different for each connection."""

    def break_off(self, reason: str) -> None:
        """End the call before its answer is sent."""


class UnsentBytes:
    """Counts the bytes of answers above `UNCOUNTED` from request to last byte. For one thread.

    Args:
        connection_bound: bytes for one connection; a single answer is always accepted.
        bound: bytes for all connections.
        clock: in seconds.
    """

    def __init__(
        self, connection_bound: int, bound: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bytes = 0
        self._connection_bound, self._bound = connection_bound, bound
        self._clock = clock
        self._held: dict[Holder, tuple[str, int]] = {}  # connection and bytes
        self._sent: dict[Holder, float] = {}  # when the answer was passed to the front, oldest first
        self._connections: dict[str, int] = {}  # bytes by connection
        self._broken_off: set[Holder] = set()  # calls that were cancelled and still hold their bytes

    def __contains__(self, call: Holder) -> bool:
        return call in self._held

    def hold(self, call: Holder, size: int) -> None:
        """Count the answer of a call by its expected size.

        Raises:
            Overloaded: the connection, or all connections, have too many unread bytes.
        """
        connection = call.peer()
        held = self._connections.get(connection, 0)
        if held and held + size > self._connection_bound:
            raise Overloaded(
                f"answers of {held} bytes are unread or being made on this connection, at most "
                f"{self._connection_bound} may be; read them before you ask for {size} bytes more",
                RETRY_SECONDS,
            )
        if self.bytes and self.bytes + size > self._bound:
            self._reclaim(self.bytes + size - self._bound - self._cancelled)
            raise Overloaded(
                f"answers of {self.bytes} bytes are unread or being made, at most {self._bound} may be",
                RETRY_SECONDS,
            )
        self._held[call] = (connection, 0)
        self._add(call, size)

    def sent(self, call: Holder, size: int) -> None:
        """An answer has been made with this size, and passed to the front."""
        if call not in self._held:
            self._held[call] = (call.peer(), 0)
        self._add(call, size - self._held[call][1])
        self._sent[call] = self._clock()

    def release(self, call: Holder) -> None:
        """An answer has been written, or its call is over."""
        if call in self._held:
            self._add(call, -self._held[call][1])
            del self._held[call]
            self._sent.pop(call, None)
            self._broken_off.discard(call)

    @property
    def _cancelled(self) -> int:
        """Bytes that become free when the front reports the end of the cancelled calls."""
        return sum(self._held[call][1] for call in self._broken_off)

    def _add(self, call: Holder, size: int) -> None:
        connection, held = self._held[call]
        self._held[call] = (connection, held + size)
        self.bytes += size
        rest = self._connections.get(connection, 0) + size
        if rest:
            self._connections[connection] = rest
        else:
            self._connections.pop(connection, None)

    def _reclaim(self, size: int) -> None:
        """Cancel the calls whose answers have been unread for longest, until `size` bytes become free."""
        due = self._clock() - PATIENCE_SECONDS
        while size > 0 and self._sent:
            oldest, since = next(iter(self._sent.items()))
            if since > due:
                return
            size -= self._held[oldest][1]
            del self._sent[oldest]
            self._broken_off.add(oldest)
            oldest.break_off(f"the answer was not read within {PATIENCE_SECONDS:g} s")
