"""Streams of gRPC as lines of JSON (NDJSON), with the back pressure of both sides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import grpc
from google.protobuf.message import Message

from serving.client.asynchronous import final_status
from serving.gateway.exchange import NDJSON, ClientGone, DisconnectWatcher, PendingBytes, Receive, lines
from serving.gateway.failures import Failure, failure_of
from serving.gateway.messages import parse, to_json
from serving.gateway.upstream import Method

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
HEAD_AFTER_SECONDS = 1.0  # after which the head of the response is sent, even if there is no line yet
HEADERS = [(b"content-type", NDJSON.encode()), (b"x-accel-buffering", b"no"), (b"cache-control", b"no-store")]


class NdjsonWriter:
    """The lines of a response.

    The head is sent with the first line, so that a call that fails at once has a status of its own.

    Args:
        send: of the request.

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
        receive: of the request.
        method: whose requests they are.
        most: bytes of one line.
        max_fields: of one line, as of `parse`.
        pending: bytes of all bodies.

    Attributes:
        call: that reads them, to be set before it does; it is cancelled when the client disconnects.
        failure: why a line could not be read; None if there was no such line.
    """

    _is_gone = False

    call: Any = None

    def __init__(
        self, receive: Receive, method: Method, most: int, max_fields: int, pending: PendingBytes
    ) -> None:
        self._receive, self._method, self._pending = receive, method, pending
        self._most, self._max_fields = most, max_fields
        self._watch: DisconnectWatcher | None = None
        self.failure: Failure | None = None

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Each request; after one that cannot be read there are no more."""
        number = 1
        try:
            async for line in lines(self._receive, self._most, self._pending):
                yield parse(line, self._method.request, self._max_fields)
                number += 1
        except Failure as failure:
            message = f"line {number}: {failure.message}"
            self.failure = Failure(failure.code, message, failure.http, failure.headers)
        except ClientGone:
            self._is_gone = True
            self.call.cancel()
        else:
            self._watch = DisconnectWatcher(self._receive, self.call)

    @property
    def is_gone(self) -> bool:
        """Whether the client has gone."""
        return self._is_gone or (self._watch is not None and self._watch.is_gone)

    def stop(self) -> None:
        """Stop watching the client."""
        if self._watch is not None:
            self._watch.stop()


async def relay(call: Any, out: NdjsonWriter, seconds: float) -> None:
    """Send each response of a call as a line.

    Args:
        call: of gRPC, with responses that are a stream.
        out: the lines.
        seconds: for all of it; a client that reads too slowly is cut off then.

    Raises:
        Failure: the call has failed.
    """
    responses = call.__aiter__()
    statuses: list[Any] = []
    call.add_done_callback(lambda ended: statuses.append(final_status(ended)))
    try:
        async with asyncio.timeout(seconds):
            first = asyncio.ensure_future(anext(responses, None))
            try:
                await asyncio.wait([first], timeout=HEAD_AFTER_SECONDS)
                if not first.done():
                    await out.begin()
                response = await first
            finally:
                first.cancel()
            while response is not None:
                await out.write(to_json(response))
                response = await anext(responses, None)
    except grpc.RpcError as error:
        raise failure_of(statuses[0] if statuses else error) from None
    except TimeoutError:
        late = "the stream was not read to its end within its time"
        raise Failure(grpc.StatusCode.DEADLINE_EXCEEDED, late) from None
