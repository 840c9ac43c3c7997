"""Frames over Unix sockets between a worker and the process of a store.

A frame is a head and a payload. The kinds of frames are those of `store_client.py`. Each end of a socket has
a thread that reads and one that writes, so a slow end holds up no other.
"""

import logging
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import BinaryIO, NamedTuple

log = logging.getLogger(__name__)

HEAD = struct.Struct("<IQQB")  # bytes of the payload, number of the request, `Frame.value`, kind
LARGEST = 64 << 20  # bytes of a payload; more can only be a fault


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
    """One end of a socket, and the threads that move frames over it.

    Args:
        name: of the threads.
        connected: the socket, which is closed when the other end is gone.
        received: called on the reading thread with each frame.
        closed: called on the reading thread when the other end is gone; not after `close`.
    """

    def __init__(
        self,
        name: str,
        connected: socket.socket,
        received: Callable[["Peer", Frame], None],
        closed: Callable[["Peer"], None],
    ) -> None:
        self._name, self._socket, self._received, self._closed = name, connected, received, closed
        self._outgoing: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._is_open = True

    def start(self) -> None:
        """Start the threads.

        Raises:
            RuntimeError: no thread can be started; the socket is closed.
        """
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError:
            self._socket.close()
            raise

    def send(self, frame: Frame) -> None:
        """Send a frame, from any thread; without effect if the socket is closed."""
        with self._changed:
            self._outgoing.append(frame)
            self._changed.notify()

    def withdraw(self, frame: Frame) -> bool:
        """Take back a frame, from any thread; returns False if a part of it has been sent already."""
        with self._changed:
            is_unsent = frame in self._outgoing
            if is_unsent:
                self._outgoing.remove(frame)
            return is_unsent

    def close(self) -> bool:
        """End the threads, which close the socket; returns whether it was open."""
        with self._changed:
            was_open, self._is_open = self._is_open, False
            self._changed.notify()
        with suppress(OSError):  # the other end is gone
            self._socket.shutdown(socket.SHUT_RDWR)
        return was_open

    def _run(self) -> None:
        """Read until the other end is gone."""
        writing = threading.Thread(target=self._write, name=self._name, daemon=True)
        try:
            writing.start()
            with self._socket.makefile("rb") as stream:
                self._read(stream)
        except OSError:  # the other end was killed
            pass
        except Exception:  # of any kind: bytes may be missing, so no frame after them can be read
            log.exception("%s: a connection is closed after an error", self._name)
        is_lost = self.close()
        if writing.ident is not None:  # it was started
            writing.join()
        self._socket.close()
        if is_lost:
            self._guarded(partial(self._closed, self))

    def _read(self, stream: BinaryIO) -> None:
        while len(head := stream.read(HEAD.size)) == HEAD.size:
            size, number, value, kind = HEAD.unpack(head)
            if size > LARGEST:
                raise ConnectionResetError(f"a frame of {size} bytes")
            payload = stream.read(size)
            if len(payload) == size:
                self._guarded(partial(self._received, self, Frame(kind, number, value, payload)))

    def _write(self) -> None:
        with suppress(OSError):  # the other end is gone
            try:
                while (frame := self._next()) is not None:
                    self._socket.sendall(frame.to_bytes())
            finally:
                self._socket.shutdown(socket.SHUT_RDWR)  # so that the reading thread ends as well

    def _next(self) -> Frame | None:
        """The next frame to send; None when the connection is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._outgoing or not self._is_open)
            return self._outgoing.popleft() if self._is_open else None

    def _guarded(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception:
            log.exception("%s: a frame or a connection could not be handled", self._name)
