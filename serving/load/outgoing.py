"""What a connection has to send, within the windows that the server gives (RFC 9113, section 5.2)."""

from collections import deque

from serving.load import frames


class Outgoing:
    """Frames to send. Messages wait here while the server has no room for them.

    Attributes:
        parts: bytes that may be sent at once.
    """

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self._window = self._initial = frames.DEFAULT_WINDOW
        self._windows: dict[int, int] = {}  # of streams whose requests are more than one frame
        # Stream, what is left of its message, and whether that is the last.
        self._waiting: deque[tuple[int, memoryview, bool]] = deque()

    def head(self, stream: int, block: bytes) -> None:
        """Begin a stream."""
        size = len(block)
        header = frames.HEADER.pack(size >> 8, size & 255, frames.HEADERS, frames.END_HEADERS, stream)
        self.parts += (header, block)

    def only(self, stream: int, message: bytes) -> None:
        """The one message of a stream, and its end."""
        size = len(message)
        if size <= frames.LARGEST and size <= self._window and size <= self._initial and not self._waiting:
            self._window -= size
            header = frames.HEADER.pack(size >> 8, size & 255, frames.DATA, frames.END_STREAM, stream)
            self.parts += (header, message)
        else:
            self.part(stream, message, True)

    def part(self, stream: int, message: bytes, last: bool) -> None:
        """One of many messages of a stream, or its end alone, where the message is empty."""
        self._windows.setdefault(stream, self._initial)
        self._waiting.append((stream, memoryview(message), last))
        self.go_on()

    def forget(self, stream: int) -> None:
        """The stream is over, whatever waits to be sent on it."""
        if self._windows.pop(stream, None) is not None:
            self._waiting = deque(each for each in self._waiting if each[0] != stream)

    def widen(self, stream: int, size: int) -> None:
        """The server has room for so many bytes more; on all streams together where it is 0."""
        if stream == 0:
            self._window += size
        elif stream in self._windows:
            self._windows[stream] += size
        self.go_on()

    def set_initial(self, size: int) -> None:
        """The server gives each stream such a window, those too that are open."""
        for stream in self._windows:
            self._windows[stream] += size - self._initial
        self._initial = size
        self.go_on()

    def go_on(self) -> None:
        """Take of what waits as much as there is room for."""
        while self._waiting:
            stream, rest, last = self._waiting[0]
            size = min(len(rest), frames.LARGEST, self._window, self._windows[stream])
            if rest and size <= 0:
                return
            self._waiting.popleft()
            self._window -= size
            self._windows[stream] -= size
            whole = size == len(rest)
            end = frames.END_STREAM if last and whole else 0
            self.parts += (frames.HEADER.pack(size >> 8, size & 255, frames.DATA, end, stream), rest[:size])
            if not whole:
                self._waiting.appendleft((stream, rest[size:], last))
