"""A worker's connection to the process of a store.

The catalogue's process owns the store of live items, and that of `serving/events/` the store of events.

A worker whose connection breaks connects again. It repeats the requests that may be repeated: reads, and
writes with a request id. The others get an error that says that their outcome is not known. A write of live
items carries its caller's deadline, after which it is not committed: a later write of the caller may have
been committed before it.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from twinspire.protos.errors import Overloaded, TwinspireError, Unavailable
from twinspire.serving.engine.call import Call, Deferred
from twinspire.serving.live.process.frames import Channel, Frame, FrameKind, Peer, guarded

MAX_BYTES = 16 << 20  # of requests of one worker that wait for their reply; one of any size may wait alone
MAX_REQUESTS = 4096  # the same in number
RETRY_SECONDS = 0.1
NOT_KNOWN = (
    "the store's process ended before it answered, so whether this was written is not known; "
    "a request with a request_id could be sent again without being carried out twice"
)

# Called with the reply, a frame of the kind `ANSWER`, or with an error.
Answered = Callable[[Frame | TwinspireError], None]


class _Waiting(NamedTuple):
    frame: Frame
    repeatable: bool
    answered: Answered


class StoreClient:
    """A worker's connection to the process of a store.

    A request whose caller has gone is carried out nevertheless, and counts against the bounds until then.

    Args:
        channel: to that process.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._bytes = 0
        self._stopped = threading.Event()
        self._peer: Peer | None = None

    def start(self) -> None:
        """Connect, after the fork, and again when the connection has ended."""
        while not self._stopped.is_set():
            try:
                peer = Peer("store", self._channel.connect(), self._received, self._closed)
                with self._lock:
                    self._peer = peer
                    for each in self._waiting.values():
                        peer.send(each.frame)
                peer.start()
            except (OSError, RuntimeError):
                # Too many connections wait until the process has been started again, or threads run.
                self._stopped.wait(RETRY_SECONDS)
                continue
            if self._stopped.is_set():
                peer.close()
            return

    def stop(self) -> None:
        """Close the connection; requests that wait get no reply."""
        self._stopped.set()
        with self._lock:
            if self._peer is not None:
                self._peer.close()

    def ask(
        self, kind: FrameKind, payload: bytes, answered: Answered, repeatable: bool = True, items: int = 0
    ) -> None:
        """Send a request.

        Args:
            kind: of the request.
            payload: of the request.
            answered: called once with the reply, on another thread.
            repeatable: whether it may be sent again to a process that has been started anew.
            items: items or events that it writes.

        Raises:
            Overloaded: too many requests wait for their reply.
        """
        with self._lock:
            is_full = self._bytes > 0 and self._bytes + len(payload) > MAX_BYTES
            if is_full or len(self._waiting) >= MAX_REQUESTS:
                raise Overloaded(
                    f"{len(self._waiting)} requests of this worker wait for the store already, "
                    "and no more may",
                    RETRY_SECONDS,
                )
            frame = Frame(kind, next(self._numbers), items, payload)
            self._waiting[frame.number] = _Waiting(frame, repeatable, answered)
            self._bytes += len(payload)
            if self._peer is not None:
                self._peer.send(frame)

    def defer(
        self,
        call: Call,
        kind: FrameKind,
        payload: bytes,
        outcome: Callable[[Frame], Any],
        repeatable: bool = True,
        items: int = 0,
    ) -> Deferred:
        """As `ask`, for a call, which gets what `outcome` makes of the reply."""
        deferred, call_soon = Deferred(), call.call_soon  # a reply that waits must not keep the call

        def answered(reply: Frame | TwinspireError) -> None:
            def give() -> Any:
                if isinstance(reply, TwinspireError):
                    raise reply
                return outcome(reply)

            call_soon(lambda: deferred.resolve(give))

        self.ask(kind, payload, answered, repeatable, items)
        return deferred

    def _take(self, number: int) -> _Waiting | None:
        with self._lock:
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                self._bytes -= len(waiting.frame.payload)
            return waiting

    def _received(self, peer: Peer, frame: Frame) -> None:
        waiting = self._take(frame.number)
        if waiting is not None:
            waiting.answered(frame.payload if frame.kind == FrameKind.ERROR else frame)

    def _closed(self, peer: Peer) -> None:
        """Connect to the successor of the store's process, and repeat what may be repeated."""
        if self._stopped.is_set():
            return
        with self._lock:
            self._peer = None
            lost = [number for number, each in self._waiting.items() if not each.repeatable]
        for waiting in filter(None, map(self._take, lost)):
            guarded(waiting.answered, Unavailable(NOT_KNOWN))
        self._stopped.wait(RETRY_SECONDS)  # the next connection may be closed at once, too
        self.start()
