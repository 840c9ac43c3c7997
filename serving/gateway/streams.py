"""Streams of gRPC as lines of JSON (NDJSON), with the client's back pressure."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import grpc
from google.protobuf.message import Message

from twinspire.serving.client.failures import StreamStatus
from twinspire.serving.gateway.exchange import NDJSON
from twinspire.serving.gateway.failures import HttpFailure, failure_of

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


async def relay(
    call: Any,
    out: NdjsonWriter,
    seconds: float,
    write: Callable[[Message], Awaitable[bytes]],
) -> None:
    """Send each response of a call as a line.

    Args:
        call: of gRPC, with responses that are a stream.
        out: the lines.
        seconds: for all of it; a client that reads too slowly is cut off then.
        write: gives the line of a response.

    Raises:
        Failure: the call has failed.
    """
    responses = call.__aiter__()
    status = StreamStatus(call)
    try:
        async with asyncio.timeout(seconds):
            response = await _first(responses, out)
            while response is not None:
                await out.write(await write(response))
                response = await anext(responses, None)
    except grpc.RpcError as error:
        raise failure_of(status.of(error)) from None
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
