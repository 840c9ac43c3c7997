"""The connection of a worker to the process of a store, and the protocol between them.

The catalogue's process owns the store of live items, and that of `serving/events/` the store of events.

The ends of a socket pair are made before the fork, and the supervisor keeps them. Each worker makes a socket
pair of its own when it starts, keeps one end, and passes the other over the first pair. So a worker or a
store's process that is killed breaks its own connection alone, and no half frame reaches its successor.

A worker whose connection breaks connects again. It repeats the requests that may be repeated: reads, and
writes with a request id. The others get an error that says that their outcome is not known.

A write of live items carries its caller's deadline, after which it is not committed: a later write of the
caller may have been committed before it. A request whose caller has gone counts against the worker's bounds
until its frame has been withdrawn, or the process has replied.

The protocol is our own, on blocking sockets and threads, because a channel of gRPC needs a path in the file
system that others may open, and cannot withdraw a request. What a frame carries is JSON, or a message of the
wire.

A frame (`frame_socket.py`) has a head of 21 bytes, little-endian, and then the payload:

    offset  bytes  content
    0       4      bytes of the payload, at most 64 MiB
    4       8      number of the request, unique on the worker; a reply has that of its request
    12      8      of a reply, the sequence that a write reached, or else that of the store, and 0 for events;
                   of a write, the number of its items or events
    20      1      `FrameKind`, which says what the payload is

Each request gets one reply, also one that is forgotten; replies come in any order. Both ends belong to one
service, are forked from one program and read no frame of another version, so the format has no version and
may change.
"""

import itertools
import json
import socket
import threading
from collections.abc import Callable
from enum import IntEnum
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from twinspire.protos import errors
from twinspire.protos.errors import InvalidInput, Overloaded, TwinspireError, Unavailable
from twinspire.serving.engine.call import Deferred
from twinspire.serving.live.process.frame_socket import LARGEST, Frame, Peer

DATAGRAM_BYTES = 256  # received at once; a datagram that passes a socket has one byte
MAX_BYTES = 32 << 20  # of requests of one worker that wait for their reply; one of any size may wait alone
MAX_REQUESTS = 4096  # the same in number
RETRY_SECONDS = 0.1
NOT_KNOWN = (
    "the store's process ended before it answered, so whether this was written is not known; "
    "a request with a request_id could be sent again without being carried out twice"
)


class FrameKind(IntEnum):
    """What a frame holds."""

    WRITE = 1  # `WriteRequest.to_bytes` or a RecordRequest; the reply is its response, and the sequence
    GET = 2  # a JSON list of ids; the reply is a GetResponse
    CHANGES = 3  # JSON {after, limit, follow}; the reply is a ChangesResponse, not empty if it follows
    ANSWER = 4
    ERROR = 5  # `error_document`
    FORGET = 6  # no payload; the caller of the request of this number has gone, so it need not be carried out
    SHOWN = 7  # a JSON list of users with the ids of the items that an answer showed; the reply is empty


# Called with the reply, a frame of the kind `ANSWER`, or with an error.
Answered = Callable[[Frame | TwinspireError], None]


class Channel:
    """The sockets between the workers and the process of a store. Call `create` before the fork."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._sender, self.receiver = sender, receiver

    @classmethod
    def create(cls) -> "Channel":
        """Two connected datagram sockets, through which workers pass the sockets of their connections."""
        sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setblocking(False)
        receiver.setblocking(False)
        return cls(sender, receiver)

    def close(self) -> None:
        """Close both ends in this process."""
        self._sender.close()
        self.receiver.close()

    def connect(self) -> socket.socket:
        """A new connection of a worker.

        Raises:
            OSError: the store's process takes no connections, and too many wait.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            socket.send_fds(self._sender, [b"\0"], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def accept(self, seconds: float = 0.0) -> list[socket.socket]:
        """The connections that workers have made since the last call; waits up to `seconds` for one."""
        found: list[socket.socket] = []
        wait([self.receiver], seconds)
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(self.receiver, DATAGRAM_BYTES, 4)
            except BlockingIOError:
                return found
            found += [socket.socket(fileno=each) for each in descriptors]


class _Waiting(NamedTuple):
    frame: Frame
    repeatable: bool
    answered: Answered | None  # None: the caller has gone


class StoreClient:
    """A worker's connection to the process of a store.

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
        """Connect; call it after the fork."""
        self._connect()

    def stop(self) -> None:
        """Close the connection; requests that wait get no reply."""
        self._stopped.set()
        with self._lock:
            if self._peer is not None:
                self._peer.close()

    def ask(
        self, kind: FrameKind, payload: bytes, answered: Answered, repeatable: bool = True, items: int = 0
    ) -> int:
        """Send a request.

        Args:
            kind: of the request.
            payload: of the request.
            answered: called once with the reply, on another thread.
            repeatable: whether it may be sent again to a process that has been started anew.
            items: items or events that it writes.

        Returns:
            Its number, for `forget`.

        Raises:
            InvalidInput: no frame may hold the payload.
            Overloaded: too many requests wait for their reply.
        """
        if len(payload) > LARGEST:
            raise InvalidInput("request", f"expected at most {LARGEST} bytes as JSON, got {len(payload)}")
        with self._lock:
            is_full = self._bytes > 0 and self._bytes + len(payload) > MAX_BYTES
            if is_full or len(self._waiting) >= MAX_REQUESTS:
                raise Overloaded(
                    f"{len(self._waiting)} requests of this worker wait for the store already, "
                    "and no more may",
                    RETRY_SECONDS,
                )
            number = next(self._numbers)
            frame = Frame(kind, number, items, payload)
            self._waiting[number] = _Waiting(frame, repeatable, answered)
            self._bytes += len(payload)
            if self._peer is not None:
                self._peer.send(frame)
        return number

    def defer(
        self,
        call_soon: Callable[[Callable[[], None]], None],
        kind: FrameKind,
        payload: bytes,
        repeatable: bool,
        outcome: Callable[[Frame], Any],
        items: int = 0,
    ) -> Deferred:
        """As `ask`, for a call, which gets what `outcome` makes of the reply.

        Args:
            call_soon: calls a function soon on the event loop's thread; may itself be called on any thread.
        """
        number = 0  # of the request; set below, before anything can call the lambda
        deferred = Deferred(lambda: self.forget(number))

        def answered(reply: Frame | TwinspireError) -> None:
            def give() -> Any:
                if isinstance(reply, TwinspireError):
                    raise reply
                return outcome(reply)

            call_soon(lambda: deferred.resolve(give))

        number = self.ask(kind, payload, answered, repeatable, items)
        return deferred

    def forget(self, number: int) -> None:
        """Drop a request whose caller has gone; a write that the process has taken from its queue is done."""
        with self._lock:
            waiting = self._waiting.get(number)
            if waiting is None or waiting.answered is None:
                return
            if self._peer is None or self._peer.withdraw(waiting.frame):
                self._remove(number)
                return
            self._waiting[number] = waiting._replace(answered=None)
            self._peer.send(Frame(FrameKind.FORGET, number, 0, b""))

    def _take(self, number: int) -> _Waiting | None:
        with self._lock:
            return self._remove(number)

    def _remove(self, number: int) -> _Waiting | None:
        """With the lock."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self._bytes -= len(waiting.frame.payload)
        return waiting

    def _received(self, peer: Peer, frame: Frame) -> None:
        waiting = self._take(frame.number)
        if waiting is None or waiting.answered is None:
            return
        if frame.kind == FrameKind.ERROR:
            waiting.answered(error_of(json.loads(frame.payload)))
        else:
            waiting.answered(frame)

    def _closed(self, peer: Peer) -> None:
        """Connect to the successor of the store's process, and repeat what may be repeated."""
        with self._lock:
            self._peer = None
            lost = [
                number
                for number, each in self._waiting.items()
                if each.answered is None or not each.repeatable
            ]
        for number in lost:
            waiting = self._take(number)
            if waiting is not None and waiting.answered is not None:
                waiting.answered(Unavailable(NOT_KNOWN))
        self._connect()

    def _connect(self) -> None:
        while not self._stopped.is_set():
            try:
                peer = Peer("store", self._channel.connect(), self._received, self._closed)
                with self._lock:
                    self._peer = peer
                    for each in self._waiting.values():
                        peer.send(each.frame)
                peer.start()
            except (OSError, RuntimeError):
                # The queue of new connections is full, until the process has been started again; or no thread
                # can be started.
                self._stopped.wait(RETRY_SECONDS)
                continue
            if self._stopped.is_set():
                peer.close()
            return


def error_document(error: Exception) -> dict[str, Any]:
    """An error as JSON, for another process."""
    document: dict[str, Any] = {"type": type(error).__name__, "text": str(error)}
    if isinstance(error, InvalidInput):
        document |= {"field": error.field, "reason": error.reason}
    if isinstance(error, Overloaded):
        document["retry_after"] = error.retry_after
    return document


def error_of(document: dict[str, Any]) -> TwinspireError:
    """What `error_document` made."""
    kind = getattr(errors, document["type"], None)
    if kind is InvalidInput:
        return InvalidInput(document["field"], document["reason"])
    if kind is Overloaded:
        return Overloaded(document["text"], document["retry_after"])
    if kind is Unavailable:
        return Unavailable(document["text"])
    if kind is TwinspireError:
        return TwinspireError(document["text"])
    return TwinspireError(f"{document['type']}: {document['text']}")
