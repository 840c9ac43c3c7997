"""A socket from the workers to one process, on which no event loop waits.

Both ends and the counts are created before the fork, and the supervisor keeps them. So a worker or a
receiver that is restarted uses the same ones, and what is in the socket is not lost.
"""

import mmap
import select
import socket
from collections.abc import Sequence
from functools import cached_property

BUFFER = 1 << 20  # bytes of the socket's buffer; Linux doubles it, if its limit allows


class DatagramChannel:
    """The socket, and for each worker slot a count of what could not be sent. Make it before the fork."""

    def __init__(self, workers: int) -> None:
        # In a connected pair only the sender's buffer limits what is queued, not a number of datagrams.
        self._sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._sender.setblocking(False)
        self._receiver.setblocking(False)
        self._dropped = memoryview(mmap.mmap(-1, workers * 8)).cast("Q")

    @cached_property
    def _buffer(self) -> memoryview:
        """A buffer to receive in; no datagram is larger."""
        return memoryview(bytearray(self._sender.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)))

    @property
    def dropped(self) -> int:
        """What the socket did not take, since the service started."""
        return sum(self._dropped)

    def send(self, slot: int, parts: Sequence[bytes]) -> None:
        """Send a datagram of the worker in a slot, or count it as dropped; it never waits.

        It is dropped where the receiver is behind or has died, or where it is larger than the socket's
        buffer.

        Args:
            parts: of the datagram, which are joined.
        """
        try:
            self._sender.sendmsg(parts)
        except OSError:
            self._dropped[slot] += 1

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` until there is something to receive; returns whether there is."""
        return bool(select.select([self._receiver], [], [], seconds)[0])

    def receive(self, most: int) -> list[bytes]:
        """The oldest datagrams in the socket, at most `most`."""
        found: list[bytes] = []
        while len(found) < most:
            try:
                size = self._receiver.recv_into(self._buffer)
            except BlockingIOError:
                break
            found.append(bytes(self._buffer[:size]))
        return found

    def close(self) -> None:
        """Close both ends in this process."""
        self._sender.close()
        self._receiver.close()
