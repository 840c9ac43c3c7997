"""How searches get from the workers to the shadow: over a socket that never blocks a worker."""

import mmap
import struct
from collections.abc import Callable
from random import random
from typing import NamedTuple

from twinspire.protos import retrieval_pb2 as wire
from twinspire.serving.datagrams import CELL_BYTES, DatagramChannel

HEAD = struct.Struct("<I")  # of a datagram: the length of its request
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
        channel: to the shadow.
        wanted: a cell that is 1 while the shadow wants searches.
        slot: of the worker.
        share: of the searches, 0 to 1.
    """

    def __init__(self, channel: DatagramChannel, wanted: "memoryview[int]", slot: int, share: float) -> None:
        self._channel, self._wanted, self._slot, self._share = channel, wanted, slot, share

    def sample(self, method: str) -> Callable[[wire.SearchRequest | bytes, bytes], None] | None:
        """`send`, or None if the next request is not sampled; takes two tenths of a microsecond."""
        # `random` is seeded again in every fork.
        if random() < self._share and self._wanted[0] == 1 and method in METHODS:
            return self.send
        return None

    def send(self, request: wire.SearchRequest | bytes, response: bytes) -> None:
        """Send a search and its answer, or count it as dropped.

        Args:
            request: that was answered.
            response: a `SearchResponse`, serialised.
        """
        content = request if isinstance(request, bytes) else request.SerializeToString()
        self._channel.send(self._slot, (HEAD.pack(len(content)), content, response))


class ShadowChannel:
    """The channel, and whether the shadow wants searches. Call `create` before any process is forked."""

    def __init__(self, channel: DatagramChannel, memory: mmap.mmap) -> None:
        self._channel = channel
        self._wanted: memoryview[int] = memoryview(memory).cast("Q")
        self.wait, self.close = channel.wait, channel.close

    @classmethod
    def create(cls, workers: int) -> "ShadowChannel":
        """A channel for a number of worker slots.

        Raises:
            ValueError: `workers` is below 1.
        """
        return cls(DatagramChannel.create(workers), mmap.mmap(-1, CELL_BYTES))

    @property
    def dropped(self) -> int:
        """Searches that were sampled and could not be sent, since the service started."""
        return self._channel.dropped

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
        return TrafficMirror(self._channel, self._wanted, slot, share)

    def request_searches(self, wanted: bool) -> None:
        """Switch the workers' sending on or off; called by the shadow."""
        self._wanted[0] = int(wanted)

    def receive(self, most: int) -> list[Mirrored]:
        """The oldest searches in the socket, at most `most`; called by the shadow."""
        found = []
        for datagram in self._channel.receive(most):
            end = HEAD.size + HEAD.unpack_from(datagram)[0]
            found.append(Mirrored(datagram[HEAD.size : end], datagram[end:]))
        return found
