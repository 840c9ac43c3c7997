"""How queries get from the workers to the shadow: over a socket that no worker ever waits for.

Both ends and the counts are made before the fork, and the supervisor keeps them. So a worker or a shadow that
is started again finds the same ones, and what was on its way is still there.
"""

import mmap
import select
import socket
import struct
from functools import cached_property
from random import random
from typing import NamedTuple

from protos import retrieval_pb2 as wire

HEAD = struct.Struct("<II")  # of a datagram: the length of its request, and `Offered.batch`
BUFFER = 1 << 20  # bytes on their way that are asked of the system; Linux gives twice that, if it may
CELL_BYTES = 8


class Offered(NamedTuple):
    """A query that the service has answered.

    Args:
        request: a `SearchRequest`, serialised.
        response: its `SearchResponse`, serialised.
        batch: queries that were worked on together with it, itself included; 0 where nobody knows.
    """

    request: bytes
    response: bytes
    batch: int


class ShadowTap:
    """A worker's end of the channel. Made by `Channel.tap`; for one thread.

    Args:
        sender: does not block.
        cells: the first says whether the shadow asks; one of the others counts what this worker dropped.
        cell: which one.
        share: of the queries, 0 to 1.
    """

    def __init__(self, sender: socket.socket, cells: "memoryview[int]", cell: int, share: float) -> None:
        self._send = sender.sendmsg
        self._cells = cells
        self._cell = cell
        self._share = share

    def wants(self) -> bool:
        """Whether the next query is one to offer; takes a tenth of a microsecond."""
        return random() < self._share and self._cells[0] == 1  # `random` is seeded anew in every fork

    def offer(self, request: wire.SearchRequest | bytes, response: bytes, batch: int = 0) -> None:
        """Hand over a query and its answer, if there is room for them at once; else count them as dropped.

        Args:
            request: that was answered.
            response: a `SearchResponse`, serialised.
            batch: queries that were worked on together (`Job.batch`), 0 where nobody knows; times are
                compared only where it is 1.
        """
        content = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            self._send((HEAD.pack(len(content), batch), content, response))
        except OSError:  # the shadow is behind or has gone, or this is too much for one datagram
            self._cells[self._cell] += 1


class Channel:
    """The socket, and what is counted. Made by `create`, before any process is forked."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, memory: mmap.mmap) -> None:
        self._sender, self._receiver = sender, receiver
        self._cells: memoryview[int] = memoryview(memory).cast("Q")

    @classmethod
    def create(cls, workers: int) -> "Channel":
        """For as many worker slots.

        Raises:
            ValueError: there is no slot.
        """
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        # Of a connected pair only the sender's buffer bounds what waits, not a count of datagrams.
        sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        sender.setblocking(False)
        receiver.setblocking(False)
        return cls(sender, receiver, mmap.mmap(-1, (1 + workers) * CELL_BYTES))

    @cached_property
    def _room(self) -> memoryview:
        """To receive in; no datagram is larger."""
        return memoryview(bytearray(self._sender.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)))

    @property
    def dropped(self) -> int:
        """Queries that were wanted and could not be handed over, by all workers that there were."""
        return sum(self._cells[1:])

    def tap(self, slot: int, share: float) -> ShadowTap:
        """The end of the worker in this slot.

        Args:
            slot: counted from 0.
            share: of its queries that the shadow gets, 0 to 1.

        Raises:
            ValueError: `share` is outside its bounds.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected 0 to 1, got {share}")
        return ShadowTap(self._sender, self._cells, 1 + slot, share)

    def ask(self, wanted: bool) -> None:
        """Say whether queries are to be offered at all; for the shadow."""
        self._cells[0] = int(wanted)

    def wait(self, seconds: float) -> bool:
        """Whether there is something to receive, as soon as there is or the time has passed."""
        return bool(select.select([self._receiver], [], [], seconds)[0])

    def receive(self, most: int) -> list[Offered]:
        """What waits, oldest first, at most so many; for the shadow."""
        found: list[Offered] = []
        while len(found) < most:
            try:
                size = self._receiver.recv_into(self._room)
            except BlockingIOError:
                break
            length, batch = HEAD.unpack_from(self._room)
            end = HEAD.size + length
            found.append(Offered(bytes(self._room[HEAD.size : end]), bytes(self._room[end:size]), batch))
        return found

    def close(self) -> None:
        """Close both ends in this process."""
        self._sender.close()
        self._receiver.close()
