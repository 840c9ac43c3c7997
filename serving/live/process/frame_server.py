"""The end of a store's process: it accepts the workers' connections, queues their requests, and replies."""

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from twinspire.protos.errors import Overloaded, Unavailable
from twinspire.serving.live.process.frame_socket import Frame, Peer
from twinspire.serving.live.process.store_client import Channel, FrameKind, error_document
from twinspire.serving.supervisor import WorkerHandle

log = logging.getLogger(__name__)

ACCEPT_SECONDS = 0.1  # between two checks whether to stop
RETRY_SECONDS = 1.0  # after which a request that found a full queue may come again


class FrameServer:
    """The connections of the workers to a store's process.

    Args:
        name: of its threads.
        channel: through which workers connect.
        take: called with each request, on a thread of its worker.
        forget: removes the requests of a worker that are still queued, and returns them: that of a number,
            or all of them without one.
    """

    def __init__(
        self,
        name: str,
        channel: Channel,
        take: Callable[["PendingRequest"], None],
        forget: Callable[[Peer, int | None], list["PendingRequest"]],
    ) -> None:
        self._name, self._channel, self._take, self._forget = name, channel, take, forget
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

    def queue(self, queue: "RequestQueue", request: "PendingRequest") -> None:
        """Queue a request, or refuse it if there is no room."""
        if not queue.put(request):
            self.refuse(request, Overloaded("too many requests wait for the store already", RETRY_SECONDS))

    def answer(self, request: "PendingRequest", value: int, message: bytes) -> None:
        """Reply to a request; `value` is that of the frame."""
        request.peer.send(Frame(FrameKind.ANSWER, request.frame.number, value, message))

    def refuse(self, request: "PendingRequest", error: Exception) -> None:
        """Reply to a request with an error."""
        content = json.dumps(error_document(error)).encode()
        request.peer.send(Frame(FrameKind.ERROR, request.frame.number, 0, content))

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                for connected in self._channel.accept(ACCEPT_SECONDS):
                    peer = Peer(self._name, connected, self._received, self._closed)
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
        if frame.kind == FrameKind.FORGET:
            for each in self._forget(peer, frame.number):
                self.refuse(each, Unavailable("the caller has gone"))
        else:
            self._take(PendingRequest(peer, frame))

    def _closed(self, peer: Peer) -> None:
        """Drop the requests of a worker that is gone; one that connects again repeats them."""
        self._peers.discard(peer)
        self._forget(peer, None)


class PendingRequest(NamedTuple):
    """A request, and the worker that gets the reply.

    Args:
        peer: of the worker.
        frame: with the request.
    """

    peer: Peer
    frame: Frame


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

    def put(self, request: PendingRequest) -> bool:
        """Add a request; returns whether there was room for it."""
        size = len(request.frame.payload)
        with self._changed:
            if self._requests and self._bytes + size > self._max_bytes:
                return False
            self._requests.append(request)
            self._bytes += size
            self._changed.notify()
        return True

    def take(self, seconds: float | None = None, most: int | None = None) -> PendingRequest | None:
        """Remove the first request.

        Args:
            seconds: to wait for one; without limit if not given.
            most: the first request stays if its `Frame.value` is higher.

        Returns:
            The request; None if there is none that may be taken, or `close` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._closed, seconds)
            if not self._requests or self._closed:
                return None
            if most is not None and self._requests[0].frame.value > most:
                return None
            request = self._requests.popleft()
            self._bytes -= len(request.frame.payload)
            return request

    def remove(self, peer: Peer, number: int | None = None) -> list[PendingRequest]:
        """Remove requests of a worker: that of a number, or all if no number is given; returns them."""
        with self._changed:
            removed = [each for each in self._requests if belongs_to(each, peer, number)]
            if removed:
                self._requests = deque(each for each in self._requests if not belongs_to(each, peer, number))
                self._bytes -= sum(len(each.frame.payload) for each in removed)
            return removed

    def close(self) -> None:
        """End all waits; `take` returns None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def belongs_to(request: PendingRequest, peer: Peer, number: int | None) -> bool:
    """Whether a request came from this worker, and has this number, if one is given."""
    return request.peer is peer and (number is None or request.frame.number == number)
