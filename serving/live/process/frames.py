"""Frames over Unix sockets between the workers and the process of a store, and both ends of them.

The ends of a datagram socket pair are made before the fork, and the supervisor keeps them. Each worker makes
a socket pair of its own when it starts, keeps one end, and passes the other over the first pair. So a worker
or a store's process that is killed breaks its own connection alone, and no half frame reaches its successor.
A worker whose connection breaks connects again. It repeats the requests that may be repeated: reads, and
writes with a request id. The others get an error that says that their outcome is not known. A write of live
items carries its caller's deadline, after which it is not committed: a later write of the caller may have
been committed before it.

A frame is pickled: both ends are forked from one program. Each end of a socket has a thread that reads and
one that writes, so a slow end holds up no other.
"""

import itertools
import logging
import math
import pickle
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from twinspire.protos.errors import Overloaded, TwinspireError, Unavailable
from twinspire.serving.engine.call import Call, Deferred
from twinspire.serving.supervisor import WorkerHandle

log = logging.getLogger(__name__)

ACCEPT_SECONDS = 0.1  # for which a process waits for a connection before it looks whether to stop
MAX_BYTES = 16 << 20  # of requests of one worker that wait for their reply; one of any size may wait alone
MAX_REQUESTS = 4096  # the same in number
RETRY_SECONDS = 0.1
NOT_KNOWN = (
    "the store's process ended before it answered, so whether this was written is not known; "
    "a request with a request_id could be sent again without being carried out twice"
)


class FrameKind(IntEnum):
    """What a frame holds."""

    WRITE = 1  # a pickled `WriteRequest`, or a RecordRequest; the reply is its response
    GET = 2  # JSON {ids, bytes}; the reply is a GetResponse
    CHANGES = 3  # JSON {after, limit, bytes}; the reply is a ChangesResponse
    SHOWN = 4  # a JSON list of users with the ids of the items that an answer showed; the reply is empty
    ANSWER = 5
    ERROR = 6  # a `TwinspireError`


class Frame(NamedTuple):
    """A request, or the reply to one.

    Args:
        kind: what the payload is.
        number: of the request, unique on the worker; a reply has that of its request.
        value: of a reply, the sequence that a write reached, or else that of the store, and 0 for events; of
            a write, the number of its items or events.
        payload: bytes, or an error.
    """

    kind: FrameKind
    number: int
    value: int
    payload: Any


class Channel:
    """Two datagram sockets, through which workers pass the sockets of their connections to a store's process.

    It is made before the fork.
    """

    def __init__(self) -> None:
        self._sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._receiver.settimeout(ACCEPT_SECONDS)

    def close(self) -> None:
        """Close both ends in this process."""
        self._sender.close()
        self._receiver.close()

    def connect(self) -> socket.socket:
        """A new connection of a worker.

        Raises:
            OSError: the store's process takes no connections, and too many wait.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                socket.send_fds(self._sender, [b"\0"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def accept(self) -> socket.socket:
        """The next connection that a worker has made.

        Raises:
            TimeoutError: none was made for `ACCEPT_SECONDS`.
        """
        _, (descriptor,), _, _ = socket.recv_fds(self._receiver, 1, 1)
        return socket.socket(fileno=descriptor)


def guarded(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function whose errors may end no thread of a connection; they are logged."""
    try:
        function(*arguments)
    except Exception:
        log.exception("a frame, or the end of a connection, could not be handled")


class Peer:
    """One end of a connection, with a thread that reads frames and one that writes them.

    Args:
        name: of the threads.
        connected: the socket, which is closed when the other end is gone.
        received: called on the reading thread with each frame.
        closed: called on the reading thread when the connection has ended.
    """

    def __init__(
        self,
        name: str,
        connected: socket.socket,
        received: Callable[["Peer", Frame], None],
        closed: Callable[["Peer"], None],
    ) -> None:
        self._name, self._socket, self._received, self._closed = name, connected, received, closed
        self._outgoing: SimpleQueue[Frame | None] = SimpleQueue()

    def start(self) -> None:
        """Start the threads.

        Raises:
            RuntimeError: no thread can be started; the socket is closed.
        """
        try:
            threading.Thread(target=self._read, name=self._name, daemon=True).start()
        except RuntimeError:
            self._socket.close()
            raise

    def send(self, frame: Frame) -> None:
        """Send a frame, from any thread; without effect if the connection has ended."""
        self._outgoing.put(frame)

    def close(self) -> None:
        """End the connection and its threads."""
        self._outgoing.put(None)
        with suppress(OSError):  # the other end is gone
            self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        """Read until the other end is gone."""
        writing = threading.Thread(target=self._write, name=self._name, daemon=True)
        try:
            writing.start()
            with self._socket.makefile("rb") as stream:
                while True:
                    guarded(self._received, self, pickle.load(stream))
        except (OSError, EOFError):  # the other end was killed
            pass
        except Exception:  # of any kind: bytes may be missing, so no frame after them can be read
            log.exception("%s: a connection is closed after an error", self._name)
        self.close()
        if writing.ident is not None:  # it was started
            writing.join()
        self._socket.close()
        guarded(self._closed, self)

    def _write(self) -> None:
        try:
            for frame in iter(self._outgoing.get, None):
                self._socket.sendall(pickle.dumps(frame))
        except OSError:  # the other end is gone
            pass
        except Exception:
            log.exception("%s: a connection is closed after an error", self._name)
        self.close()  # so that the reading thread ends as well


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


Requests = SimpleQueue[PendingRequest]  # workers bound theirs (`StoreClient`)


def take_group(requests: Requests, seconds: float, items: int) -> list[PendingRequest]:
    """Remove as many requests as one transaction should have.

    Args:
        requests: that wait.
        seconds: to wait for the first.
        items: no request is added to a group that writes as many.
    """
    group, size = list[PendingRequest](), 0
    with suppress(Empty):
        while size < items:
            group.append(requests.get(timeout=0.0 if group else seconds))
            size += group[-1].frame.value
    return group


class FrameServer:
    """The connections of the workers to a store's process.

    Args:
        name: of its threads.
        channel: through which workers connect.
        received: called with each request, on the thread of its worker.
    """

    def __init__(self, name: str, channel: Channel, received: Callable[[PendingRequest], None]) -> None:
        self._name, self._channel = name, channel
        self._received = lambda peer, frame: received(PendingRequest(peer, frame))
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
                peer = Peer(self._name, self._channel.accept(), self._received, self._peers.discard)
                self._peers.add(peer)
                try:
                    peer.start()
                except RuntimeError:  # too many threads; it is closed, and the worker connects again
                    self._peers.discard(peer)
                    raise
            except TimeoutError:  # no worker connects now
                pass
            except Exception:  # of any kind, such as too many threads or open files
                log.exception("%s: a connection could not be accepted", self._name)
                self._stopped.wait(ACCEPT_SECONDS)


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
