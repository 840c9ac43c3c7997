"""A bounded queue of requests in the catalogue's process; requests whose caller has gone are removed."""

import threading
from collections import deque
from typing import NamedTuple

from serving.live.process.frame_socket import Frame, Peer


class PendingRequest(NamedTuple):
    """A request, and the worker that gets the reply.

    Args:
        peer: of the worker.
        frame: with the request.
    """

    peer: Peer
    frame: Frame


class RequestQueue:
    """Requests in the order in which they came, for any thread.

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
