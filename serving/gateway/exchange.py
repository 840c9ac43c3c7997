"""One HTTP request: its timeout and type, its body within bounds, and whether its client disconnects."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import grpc
from starlette.requests import Request

from serving.gateway.failures import TOO_LARGE, TOO_SLOW, WRONG_TYPE, Failure, invalid

JSON, NDJSON = "application/json", "application/x-ndjson"
WATCH_AFTER_SECONDS = 0.05  # a call that ends sooner needs no task that waits for its client to disconnect
CLOSE = {"connection": "close"}  # for responses before the end of the body, the rest of which is not read

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The client has closed the connection."""


def deadline(request: Request, usual: float, longest: float) -> float:
    """The timeout of a request in seconds: its header `Request-Timeout`, or the usual one.

    Raises:
        Failure: the header is no number of seconds within the bound.
    """
    text = request.headers.get("request-timeout")
    if text is None:
        return usual
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= longest:
        raise invalid(
            f"Request-Timeout: expected seconds, above 0 and at most {longest:g}, got {text[:100]!r}"
        )
    return seconds


def check_type(request: Request, *types: str) -> None:
    """Refuse a body of another type.

    Browsers send JSON to another origin only after a preflight request (CORS), which the gateway never
    permits; bodies of some other types they send at once. So a page of another origin cannot write items.

    Raises:
        Failure: the type is another one.
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() not in types:
        raise invalid(f"Content-Type: expected {' or '.join(types)}, got {given[:100] or 'none'}", WRONG_TYPE)


class PendingBytes:
    """The bytes of all bodies that have begun to arrive and have not ended.

    Args:
        most: bytes at once.

    Attributes:
        held: bytes now.
    """

    def __init__(self, most: int) -> None:
        self._most, self.held = most, 0

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Count bytes of a body while the rest is waited for.

        Raises:
            Failure: there is no room for them.
        """
        if count and self.held + count > self._most:
            full = f"the gateway waits for the rest of bodies of {self._most} bytes (--pending-body-bytes)"
            raise Failure(grpc.StatusCode.UNAVAILABLE, full, headers=CLOSE | {"retry-after": "1"})
        self.held += count
        try:
            yield
        finally:
            self.held -= count


async def body(request: Request, most: int, seconds: float, pending: PendingBytes) -> bytes | bytearray:
    """The body of a request.

    Args:
        request: whose body has not been read.
        most: bytes.
        seconds: that it may take to arrive.
        pending: bytes of all bodies.

    Raises:
        Failure: it is too large, takes too long, or there is no room for it.
        ClientGone: the client has closed the connection.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large(most)
    until = asyncio.get_running_loop().time() + seconds
    message = await _received(request.receive, seconds)
    if not message.get("more_body", False):
        content: bytes = message.get("body", b"")
        if len(content) > most:
            raise too_large(most)
        return content
    whole = bytearray(message.get("body", b""))
    while message.get("more_body", False):
        if len(whole) > most:
            raise too_large(most)
        with pending.hold(len(whole)):
            message = await _received(request.receive, until - asyncio.get_running_loop().time())
        whole += message.get("body", b"")
    if len(whole) > most:
        raise too_large(most)
    return whole


async def lines(receive: Receive, most: int, pending: PendingBytes) -> AsyncIterator[bytes]:
    """The lines of a body of any length; empty lines are skipped.

    A part of the body is read only when the caller takes the next line, so that a client cannot send faster
    than it is answered. Each byte is scanned once, also where a line arrives in many parts.

    Args:
        receive: of the request.
        most: bytes of one line.
        pending: bytes of all bodies.

    Raises:
        Failure: a line is too long, or there is no room for it.
        ClientGone: the client has gone.
    """
    line = bytearray()
    more = True
    while more:
        with pending.hold(len(line)):
            message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        begin = 0
        while (end := part.find(b"\n", begin)) >= 0:
            line += part[begin:end]
            begin = end + 1
            if len(line) > most:
                raise too_large(most, "line")
            if line.strip():
                yield bytes(line)
            line.clear()
        line += part[begin:]
        if len(line) > most:
            raise too_large(most, "line")
    if line.strip():
        yield bytes(line)


def too_large(most: int, what: str = "body") -> Failure:
    """The failure of a body, or a line, that is too large; the rest of the body is not read."""
    message = f"{what}: expected at most {most} bytes (--max-body-bytes)"
    return Failure(grpc.StatusCode.INVALID_ARGUMENT, message, TOO_LARGE, CLOSE)


class DisconnectWatcher:
    """Cancels a call when the client of its request disconnects.

    Args:
        receive: of a request whose body has been read.
        call: of gRPC, or another object with `cancel`.

    Attributes:
        is_gone: whether the client has gone.
    """

    is_gone = False

    def __init__(self, receive: Receive, call: Any) -> None:
        self._receive, self._call = receive, call
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._start)

    def stop(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self._call.cancel()


async def _received(receive: Receive, seconds: float) -> MutableMapping[str, Any]:
    # A body that is short has mostly arrived with its head: then nothing waits, and no timer is needed.
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            message = await receive()
    except TimeoutError:
        slow = "the body did not arrive within the request's time"
        raise Failure(grpc.StatusCode.DEADLINE_EXCEEDED, slow, TOO_SLOW, CLOSE) from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message
