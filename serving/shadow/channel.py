"""How searches get from the workers to the shadow: over a socket that never blocks a worker.

Both ends of the socket and the counters are created before the fork, and the supervisor keeps them. So a
worker or a shadow that is restarted uses the same ones, and searches in the socket are not lost.
"""

import mmap
import select
import socket
import struct
from collections.abc import Callable
from functools import cached_property
from random import random
from typing import NamedTuple

from twinspire.protos import retrieval_pb2 as wire

HEAD = struct.Struct("<I")  # of a datagram: the length of its request
BUFFER = 1 << 20  # bytes of the socket's buffer; Linux doubles it, if its limit allows
CELL_BYTES = 8
METHODS = frozenset({"Search", "SearchStream"})


class Mirrored(NamedTuple):
    """A search that the service has answered.

    Args:
        request: a `SearchRequest`, serialised.
        response: its `SearchResponse`, serialised.
    """

    request: bytes
    response: bytes


class TrafficMirror:
    """A worker's end of the channel. Made by `ShadowChannel.mirror`; for one thread.

    Args:
        sender: a socket that does not block.
        cells: the first is 1 while the shadow wants searches; one of the others counts what this worker
            dropped.
        cell: index of this worker's counter.
        share: of the searches, 0 to 1.
    """

    def __init__(self, sender: socket.socket, cells: "memoryview[int]", cell: int, share: float) -> None:
        self._send = sender.sendmsg
        self._cells = cells
        self._cell = cell
        self._share = share

    def sample(self, method: str) -> Callable[[wire.SearchRequest | bytes, bytes], None] | None:
        """`send`, or None if the next request is not sampled; takes two tenths of a microsecond."""
        # `random` is seeded again in every fork.
        if random() < self._share and self._cells[0] == 1 and method in METHODS:
            return self.send
        return None

    def send(self, request: wire.SearchRequest | bytes, response: bytes) -> None:
        """Send a search and its answer, or count it as dropped if the socket is full.

        Args:
            request: that was answered.
            response: a `SearchResponse`, serialised.
        """
        content = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            self._send((HEAD.pack(len(content)), content, response))
        except OSError:  # the shadow is behind or has died, or the search is too large for a datagram
            self._cells[self._cell] += 1


class ShadowChannel:
    """The socket and the counters. Call `create` before any process is forked."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, memory: mmap.mmap) -> None:
        self._sender, self._receiver = sender, receiver
        self._cells: memoryview[int] = memoryview(memory).cast("Q")

    @classmethod
    def create(cls, workers: int) -> "ShadowChannel":
        """A channel for a number of worker slots.

        Raises:
            ValueError: `workers` is below 1.
        """
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        # In a connected pair only the sender's buffer limits what is queued, not a number of datagrams.
        sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        sender.setblocking(False)
        receiver.setblocking(False)
        return cls(sender, receiver, mmap.mmap(-1, (1 + workers) * CELL_BYTES))

    @cached_property
    def _buffer(self) -> memoryview:
        """A buffer to receive in; no datagram is larger."""
        return memoryview(bytearray(self._sender.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)))

    @property
    def dropped(self) -> int:
        """Searches that were sampled and could not be sent, since the service started."""
        return sum(self._cells[1:])

    def mirror(self, slot: int, share: float) -> TrafficMirror:
        """The end of the worker in a slot.

        Args:
            slot: counted from 0.
            share: of the worker's searches, 0 to 1.

        Raises:
            ValueError: `share` is out of its range.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected 0 to 1, got {share}")
        return TrafficMirror(self._sender, self._cells, 1 + slot, share)

    def request_searches(self, wanted: bool) -> None:
        """Switch the workers' sending on or off; called by the shadow."""
        self._cells[0] = int(wanted)

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` until there is something to receive; returns whether there is."""
        return bool(select.select([self._receiver], [], [], seconds)[0])

    def receive(self, most: int) -> list[Mirrored]:
        """The oldest searches in the socket, at most `most`; called by the shadow."""
        found: list[Mirrored] = []
        while len(found) < most:
            try:
                size = self._receiver.recv_into(self._buffer)
            except BlockingIOError:
                break
            (length,) = HEAD.unpack_from(self._buffer)
            end = HEAD.size + length
            request, response = bytes(self._buffer[HEAD.size : end]), bytes(self._buffer[end:size])
            found.append(Mirrored(request, response))
        return found

    def close(self) -> None:
        """Close both ends in this process."""
        self._sender.close()
        self._receiver.close()
