"""Streams of gRPC as lines of JSON (NDJSON), with the back pressure of both sides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import grpc
from google.protobuf.message import Message

from serving.client.asynchronous import final_status
from serving.gateway.exchange import (
    AUTHORIZE_SECONDS,
    NDJSON,
    Authorize,
    DisconnectWatcher,
    HttpClientGone,
    PendingBytes,
    Receive,
    lines,
)
from serving.gateway.failures import HttpFailure, failure_of

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
HEAD_AFTER_SECONDS = 1.0  # after which the head of the response is sent, even if there is no line yet
HEADERS = [(b"content-type", NDJSON.encode()), (b"x-accel-buffering", b"no"), (b"cache-control", b"no-store")]


class NdjsonWriter:
    """The lines of a response.

    The head is sent with the first line, so that a call that fails at once has a status of its own.

    Attributes:
        has_begun: whether the head has been sent.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def begin(self) -> None:
        """Send the head, unless it has been sent."""
        if not self.has_begun:
            self.has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            # An empty part makes the server write the head now.
            await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def write(self, line: bytes) -> None:
        """Send a line; returns when the client has room for more."""
        await self.begin()
        await self._send({"type": "http.response.body", "body": line + b"\n", "more_body": True})

    async def end(self) -> None:
        """Send the end."""
        await self.begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class NdjsonRequests:
    """The requests of a stream, from the lines of a body; gRPC reads them as fast as it can send them.

    Args:
        client: that sends them.
        most: bytes of one line.
        pending: bytes of all bodies.
        read: gives the message of a line.
        idle_seconds: without a line, and without an answer to come, after which the stream ends.

    Attributes:
        call: that reads them, to be set before it does; it is cancelled when the client disconnects.
        failure: why a line could not be read; None if there was no such line.
    """

    _is_gone = False

    call: Any = None

    def __init__(
        self,
        receive: Receive,
        client: str,
        most: int,
        pending: PendingBytes,
        read: Callable[[bytes], Awaitable[Message]],
        idle_seconds: float,
    ) -> None:
        self._receive, self._read, self._idle_seconds = receive, read, idle_seconds
        self._lines = lines(receive, client, most, pending, self._idle)
        self._clock = asyncio.get_running_loop().time
        self._active_at = self._clock()
        self._number = 0
        self._unanswered = 0
        self._first: Message | None = None
        self._watch: DisconnectWatcher | None = None
        self.failure: HttpFailure | None = None

    async def begin(self, authorize: Authorize, send_head: Authorize) -> None:
        """Wait for the first line.

        Args:
            authorize: called if it is not there yet.
            send_head: called if it does not come for `HEAD_AFTER_SECONDS`.

        Raises:
            Failure: it cannot be read, does not come, or the client is refused.
            ClientGone: the client has gone.
        """
        first = asyncio.ensure_future(self._next())
        try:
            for seconds, act in ((AUTHORIZE_SECONDS, authorize), (HEAD_AFTER_SECONDS, send_head)):
                await asyncio.wait([first], timeout=seconds)
                if not first.done():
                    await act()
            self._first = await first
        finally:
            first.cancel()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Each request; after one that cannot be read there are no more."""
        try:
            message = self._first
            while message is not None:
                self._active_at = self._clock()
                self._unanswered += 1
                yield message
                message = await self._next()
        except HttpFailure as failure:
            self.failure = failure
        except HttpClientGone:
            self._is_gone = True
            self.call.cancel()
        else:
            self._watch = DisconnectWatcher(self._receive, self.call)

    def answered(self) -> None:
        """A request has been answered."""
        self._active_at = self._clock()
        self._unanswered -= 1

    async def _next(self) -> Message | None:
        """The message of the next line; None at the end."""
        self._number += 1
        try:
            line = await anext(self._lines, None)
            return None if line is None else await self._read(line)
        except HttpFailure as failure:
            message = f"line {self._number}: {failure.message}"
            raise HttpFailure(failure.code, message, failure.http, failure.headers) from None

    def _idle(self) -> float:
        """Seconds that the next line may still take."""
        if self._unanswered > 0:
            return self._idle_seconds
        return self._active_at + self._idle_seconds - self._clock()

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone."""
        return self._is_gone or (self._watch is not None and self._watch.is_gone)

    def stop(self) -> None:
        """Stop watching the client."""
        if self._watch is not None:
            self._watch.stop()


async def relay(
    call: Any,
    out: NdjsonWriter,
    seconds: float,
    write: Callable[[Message], Awaitable[bytes]],
    answered: Callable[[], None] | None = None,
) -> None:
    """Send each response of a call as a line.

    Args:
        call: of gRPC, with responses that are a stream.
        out: the lines.
        seconds: for all of it; a client that reads too slowly is cut off then.
        write: gives the line of a response.
        answered: called after each line.

    Raises:
        Failure: the call has failed.
    """
    responses = call.__aiter__()
    statuses: list[Any] = []
    call.add_done_callback(lambda ended: statuses.append(final_status(ended)))
    try:
        async with asyncio.timeout(seconds):
            response = await _first(responses, out)
            while response is not None:
                await out.write(await write(response))
                if answered is not None:
                    answered()
                response = await anext(responses, None)
    except grpc.RpcError as error:
        raise failure_of(statuses[0] if statuses else error) from None
    except TimeoutError:
        late = "the stream was not read to its end within its time"
        raise HttpFailure(grpc.StatusCode.DEADLINE_EXCEEDED, late) from None


async def _first(responses: AsyncIterator[Message], out: NdjsonWriter) -> Message | None:
    """The first response, None if there is none; if it takes long, the head is sent before it."""
    first = asyncio.ensure_future(anext(responses, None))
    try:
        await asyncio.wait([first], timeout=HEAD_AFTER_SECONDS)
        if not first.done():
            await out.begin()
        return await first
    finally:
        first.cancel()
