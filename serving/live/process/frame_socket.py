"""Frames over Unix sockets between a worker and the process of a store, moved by a thread of their own.

A frame is a head and a payload. The kinds of frames are those of `store_client.py`.
"""

import logging
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

log = logging.getLogger(__name__)

HEAD = struct.Struct("<IQQB")  # bytes of the payload, number of the request, `Frame.value`, kind
CHUNK = 256 << 10  # bytes that are read at once
LARGEST = 64 << 20  # bytes of a payload; more can only be a fault
PAUSE_SECONDS = 0.1  # after an error in the loop, which may occur again at once


class Frame(NamedTuple):
    """A request, or the reply to one.

    Args:
        kind: what the payload is.
        number: of the request.
        value: of a reply, a sequence; of a request, the number of items that it writes.
        payload: its content.
    """

    kind: int
    number: int
    value: int
    payload: bytes

    def to_bytes(self) -> bytes:
        """The frame as it is sent: its head, and then the payload."""
        return HEAD.pack(len(self.payload), self.number, self.value, self.kind) + self.payload


class Peer:
    """One socket and its queue of outgoing frames. Only the thread of `FrameLoop` calls its methods."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.outgoing: deque[bytes] = deque()  # frames; any thread may append
        self._unsent = memoryview(b"")
        self._received = bytearray()

    @property
    def wants_to_write(self) -> bool:
        """Whether there are bytes to write."""
        return bool(self._unsent or self.outgoing)

    def write(self) -> None:
        """Write as much as the socket takes.

        Raises:
            OSError: the other end is gone.
        """
        while self.wants_to_write:
            if not self._unsent:
                try:
                    self._unsent = memoryview(self.outgoing.popleft())
                except IndexError:  # another thread has just withdrawn it
                    return
            try:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            except BlockingIOError:
                return

    def read(self) -> list[Frame]:
        """The frames that have arrived.

        Raises:
            OSError: the other end is gone, or has sent bytes that are no frame.
        """
        try:
            chunk = self.socket.recv(CHUNK)
        except BlockingIOError:
            return []
        if not chunk:
            raise ConnectionResetError("the other end has closed the socket")
        self._received += chunk
        found, start = [], 0
        while len(self._received) - start >= HEAD.size:
            size, number, value, kind = HEAD.unpack_from(self._received, start)
            if size > LARGEST:
                raise ConnectionResetError(f"a frame of {size} bytes")
            end = start + HEAD.size + size
            if len(self._received) < end:
                break
            found.append(Frame(kind, number, value, bytes(self._received[start + HEAD.size : end])))
            start = end
        del self._received[:start]
        return found


class FrameLoop:
    """A thread that moves frames over any number of sockets.

    Args:
        name: of the thread.
        received: called on that thread with each frame.
        closed: called on that thread when a socket's other end is gone.
    """

    def __init__(
        self, name: str, received: Callable[[Peer, Frame], None], closed: Callable[[Peer], None]
    ) -> None:
        self._received, self._closed = received, closed
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._peers: set[Peer] = set()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def peers(self) -> int:
        """Number of open sockets."""
        return len(self._peers)

    def watch(self, readable: socket.socket, function: Callable[[], None]) -> None:
        """Call a function on the thread when a socket can be read; before `start`."""
        self._selector.register(readable, selectors.EVENT_READ, function)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and close all sockets."""
        self._stopped = True
        self._interrupt()
        self._thread.join()

    def add(self, connected: socket.socket) -> Peer:
        """Take over a socket; on the thread, or before `start`."""
        peer = Peer(connected)
        self._peers.add(peer)
        self._selector.register(connected, selectors.EVENT_READ, peer)
        return peer

    def send(self, peer: Peer, frame: Frame) -> None:
        """Send a frame, from any thread; without effect if the socket is closed."""
        peer.outgoing.append(frame.to_bytes())
        self._interrupt()

    def withdraw(self, peer: Peer, frame: Frame) -> bool:
        """Take back a frame, from any thread; returns False if a part of it has been sent already."""
        try:
            peer.outgoing.remove(frame.to_bytes())
        except ValueError:
            return False
        return True

    def _interrupt(self) -> None:
        with suppress(OSError):  # the socket is full, so the thread wakes anyway; or it is closed
            self._wake.send(b"\0")

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._move()
            except Exception:  # of any kind: without this thread no request would ever get a reply
                log.exception("%s: the thread that moves frames goes on after an error", self._thread.name)
                time.sleep(PAUSE_SECONDS)
        for peer in [*self._peers]:
            self._forget(peer)
        self._selector.close()
        self._woken.close()
        self._wake.close()

    def _move(self) -> None:
        for key, _ in self._selector.select():
            if isinstance(key.data, Peer):
                self._handle(key.data)
            elif key.data is not None:
                self._guarded(key.data)
            else:
                self._drain()
        for peer in [each for each in self._peers if each.wants_to_write]:
            self._write(peer)

    def _handle(self, peer: Peer) -> None:
        try:
            frames = peer.read()
        except Exception as error:  # of any kind: bytes may be missing, so no frame after them can be read
            self._close(peer, error)
            return
        for frame in frames:
            self._guarded(partial(self._received, peer, frame))

    def _write(self, peer: Peer) -> None:
        try:
            peer.write()
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.wants_to_write else 0)
            if self._selector.get_key(peer.socket).events != events:
                self._selector.modify(peer.socket, events, peer)
        except Exception as error:  # as in `_handle`
            self._close(peer, error)

    def _guarded(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:
            log.exception("%s: a frame or a connection could not be handled", self._thread.name)

    def _close(self, peer: Peer, error: Exception) -> None:
        if not isinstance(error, OSError):
            log.error("%s: a connection is closed after an error", self._thread.name, exc_info=error)
        if peer in self._peers:
            self._forget(peer)
            self._guarded(partial(self._closed, peer))

    def _forget(self, peer: Peer) -> None:
        self._peers.discard(peer)
        with suppress(KeyError, ValueError):  # it is not registered
            self._selector.unregister(peer.socket)
        peer.socket.close()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
