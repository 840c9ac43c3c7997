"""Streams of gRPC as lines of JSON (NDJSON), with the client's back pressure."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
from google.protobuf.message import Message
from starlette.responses import Response

from twinspire.serving.client.failures import StreamStatus
from twinspire.serving.gateway.exchange import (
    NDJSON,
    DisconnectWatcher,
    HttpClientGone,
    Receive,
    error_response,
)
from twinspire.serving.gateway.failures import HttpFailure, failure_of

HEAD_AFTER_SECONDS = 1.0  # after which the head of the response is sent, even if there is no line yet
HEADERS = [(b"content-type", NDJSON.encode()), (b"x-accel-buffering", b"no"), (b"cache-control", b"no-store")]


class StreamResponse(Response):
    """The responses of a call as lines.

    The head is sent with the first line, so that a call that fails at once has a status of its own. A failure
    after the head is sent as the last line.

    Args:
        open_call: opens the call, which ends with the block.
        write: gives the line of a response.
        seconds: until the call's deadline; a client that reads too slowly is cut off then.
        refuse: counts a failure.
        cancelled: gives the error of a call that was cancelled, by whether its client has gone.
    """

    def __init__(
        self,
        open_call: Callable[[], AbstractAsyncContextManager[Any]],
        write: Callable[[Message], Awaitable[bytes]],
        seconds: float,
        refuse: Callable[[HttpFailure], None],
        cancelled: Callable[[bool], BaseException],
    ) -> None:
        super().__init__()
        self._open_call, self._line, self._seconds = open_call, write, seconds
        self._refuse, self._cancelled = refuse, cancelled
        self._has_begun = False

    async def __call__(self, scope: Any, receive: Receive, send: Any) -> None:
        """Answer."""
        self._send = send
        try:
            await self._relay(receive)
        except HttpFailure as failure:
            self._refuse(failure)
            if not self._has_begun:
                await error_response(failure)(scope, receive, send)
                return
            await self._write(failure.body)
        except HttpClientGone:
            return
        await self._begin()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _relay(self, receive: Receive) -> None:
        """Send each response of the call as a line.

        Raises:
            HttpFailure: the call has failed.
            HttpClientGone: the client has closed the connection.
        """
        async with self._open_call() as call:
            watch, status, responses = DisconnectWatcher(receive, call), StreamStatus(call), call.__aiter__()
            try:
                async with asyncio.timeout(self._seconds):
                    response = await self._first(responses)
                    while response is not None:
                        await self._write(await self._line(response))
                        response = await anext(responses, None)
            except grpc.RpcError as error:
                raise failure_of(status.of(error)) from None
            except TimeoutError:
                late = "the stream was not read to its end within its time"
                raise HttpFailure(grpc.StatusCode.DEADLINE_EXCEEDED, late) from None
            except asyncio.CancelledError:
                raise self._cancelled(watch.is_gone) from None
            finally:
                watch.stop()

    async def _first(self, responses: AsyncIterator[Message]) -> Message | None:
        """The first response, None if there is none; if it takes long, the head is sent before it."""
        first = asyncio.ensure_future(anext(responses, None))
        try:
            await asyncio.wait([first], timeout=HEAD_AFTER_SECONDS)
            if not first.done():
                await self._begin()
            return await first
        finally:
            first.cancel()

    async def _begin(self) -> None:
        """Send the head, unless it has been sent."""
        if not self._has_begun:
            self._has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            # An empty part makes the server write the head now.
            await self._send({"type": "http.response.body", "body": b"", "more_body": True})

    async def _write(self, line: bytes) -> None:
        """Send a line; returns when the client has room for more."""
        await self._begin()
        await self._send({"type": "http.response.body", "body": line + b"\n", "more_body": True})
