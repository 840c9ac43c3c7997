"""A store's process's end of the frames: the connections of all workers, and the requests that wait."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from twinspire.protos.errors import Overloaded, TwinspireError
from twinspire.serving.live.process.frame_socket import Channel, Frame, FrameKind, Peer
from twinspire.serving.supervisor import WorkerHandle

log = logging.getLogger(__name__)

ACCEPT_SECONDS = 0.1  # between two checks whether to stop
RETRY_SECONDS = 1.0  # after which a request that found a full queue may come again
FULL = "too many requests wait for the store already"


class PendingRequest(NamedTuple):
    """A request, and the worker that gets the reply.

    Args:
        peer: of the worker.
        frame: with the request.
    """

    peer: Peer
    frame: Frame

    def answer(self, value: int, message: bytes) -> None:
        """Reply; `value` is that of the frame."""
        self.peer.send(Frame(FrameKind.ANSWER, self.frame.number, value, message))

    def refuse(self, error: TwinspireError) -> None:
        """Reply with an error."""
        self.peer.send(Frame(FrameKind.ERROR, self.frame.number, 0, error))


class RequestQueue:
    """A bounded queue of requests in the order in which they came; for any thread.

    Args:
        max_bytes: of their payloads together; one request is taken whatever its size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._requests: deque[PendingRequest] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._requests)

    def put(self, request: PendingRequest) -> None:
        """Add a request, or refuse it if there is no room."""
        size = len(request.frame.payload)
        with self._changed:
            if self._requests and self._bytes + size > self._max_bytes:
                request.refuse(Overloaded(FULL, RETRY_SECONDS))
                return
            self._requests.append(request)
            self._bytes += size
            self._changed.notify()

    def take(self, seconds: float | None = None, most: float = math.inf) -> PendingRequest | None:
        """Remove the first request.

        Args:
            seconds: to wait for one; without limit if not given.
            most: the first request stays if its `Frame.value` is higher.

        Returns:
            The request; None if there is none that may be taken, or `close` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._closed, seconds)
            if not self._requests or self._closed or self._requests[0].frame.value > most:
                return None
            request = self._requests.popleft()
            self._bytes -= len(request.frame.payload)
            return request

    def take_group(
        self, seconds: float, items: int, gather: Callable[[], float] = float
    ) -> list[PendingRequest]:
        """Remove as many requests as one transaction should have.

        Args:
            seconds: to wait for the first.
            items: that they write together, unless the first alone has more.
            gather: called after the first; gives the seconds to wait for others, by default none.
        """
        group, size = list[PendingRequest](), 0
        request = self.take(seconds)
        until = time.monotonic() + gather()
        while request is not None:
            group.append(request)
            size += request.frame.value
            request = self.take(max(0.0, until - time.monotonic()), items - size)
        return group

    def close(self) -> None:
        """End all waits; `take` returns None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class FrameServer:
    """The connections of the workers to a store's process.

    Args:
        name: of its threads.
        channel: through which workers connect.
        queue_of: the queue for requests of a kind.
    """

    def __init__(self, name: str, channel: Channel, queue_of: Callable[[FrameKind], RequestQueue]) -> None:
        self._name, self._channel, self._queue_of = name, channel, queue_of
        self._peers: set[Peer] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._accept, name=name, daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def work(self, handle: WorkerHandle, grace: float, step: Callable[[], None]) -> float:
        """Call `step` again and again, until the service stops and the workers have ended their calls.

        Args:
            handle: of the process.
            grace: seconds for the workers to end them.

        Returns:
            When the process must end, by `time.monotonic`.
        """
        stopped, until = handle.stop_event(), math.inf
        while time.monotonic() < until and not (stopped.is_set() and not self._peers):
            if stopped.is_set() and until == math.inf:
                until = time.monotonic() + grace
            step()
        return min(until, time.monotonic() + grace)

    def stop(self) -> None:
        """Close all connections."""
        self._stopped.set()
        self._thread.join()
        for peer in [*self._peers]:
            peer.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                for connected in self._channel.accept(ACCEPT_SECONDS):
                    peer = Peer(self._name, connected, self._received, self._peers.discard)
                    self._peers.add(peer)
                    try:
                        peer.start()
                    except RuntimeError:  # too many threads; it is closed, and the worker connects again
                        self._peers.discard(peer)
                        log.exception("%s: a connection could not be accepted", self._name)
            except Exception:  # of any kind, such as too many threads
                log.exception("%s: a connection could not be accepted", self._name)
                self._stopped.wait(ACCEPT_SECONDS)

    def _received(self, peer: Peer, frame: Frame) -> None:
        self._queue_of(frame.kind).put(PendingRequest(peer, frame))
