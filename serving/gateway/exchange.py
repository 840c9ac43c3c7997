"""One HTTP request: its timeout and type, its body within bounds, and whether its client disconnects."""

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from typing import Any

import grpc
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from twinspire.serving.gateway.failures import CLOSE, TOO_LARGE, TOO_SLOW, WRONG_TYPE, HttpFailure, invalid
from twinspire.serving.gateway.fairness import FairShare, client_in

JSON = "application/json"
WATCH_AFTER_SECONDS = 0.05  # a call that ends sooner needs no task that waits for its client to disconnect
CLIENT_GONE = grpc.StatusCode.CANCELLED, "the client has closed the connection"
RECEIVED = "twinspire.received"  # in a request's scope: bytes of its body that have arrived

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def deadline(request: Request, usual: float, longest: float) -> float:
    """The timeout of a request in seconds: its header `Request-Timeout`, or the usual one.

    Raises:
        HttpFailure: the header is no number of seconds within the bound.
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


def check_type(request: Request) -> None:
    """Refuse a body of another type than JSON.

    Browsers send JSON to another origin only after a preflight request (CORS), which the gateway permits to
    the origins of `--cors-origin` alone; bodies of some other types they send at once. So a page of another
    origin cannot write items.

    Raises:
        HttpFailure: the type is another one.
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != JSON:
        raise invalid(f"Content-Type: expected {JSON}, got {given[:100] or 'none'}", WRONG_TYPE)


async def body(request: Request, most: int, seconds: float, pending: FairShare) -> bytearray:
    """The body of a request.

    Args:
        request: whose body has not been read.
        most: bytes.
        seconds: that it may take to arrive.
        pending: bytes of all bodies.

    Raises:
        HttpFailure: it is too large, takes too long, there is no room for it, or its client has gone.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_large(most)
    client, whole = client_in(request.scope), bytearray()
    try:
        with ExitStack() as held:
            async with asyncio.timeout(seconds):
                async for part in request.stream():
                    whole += part
                    request.scope[RECEIVED] = len(whole)
                    if len(whole) > most:
                        raise too_large(most)
                    held.close()
                    held.enter_context(pending.hold(client, len(whole)))
    except TimeoutError:
        text = f"the body took longer than {seconds:g} s (--longest-timeout)"
        raise HttpFailure(grpc.StatusCode.DEADLINE_EXCEEDED, text, TOO_SLOW, CLOSE) from None
    except ClientDisconnect:
        raise HttpFailure(*CLIENT_GONE) from None
    return whole


def too_large(most: int) -> HttpFailure:
    """The failure of a body that is too large; the rest of it is not read."""
    message = f"body: expected at most {most} bytes (--max-body-bytes)"
    return HttpFailure(grpc.StatusCode.INVALID_ARGUMENT, message, TOO_LARGE, CLOSE)


def error_response(failure: HttpFailure) -> Response:
    """The response to a request that failed."""
    return Response(failure.body, failure.http, failure.headers, JSON)


class DisconnectWatcher:
    """Cancels the current task when the client of its request disconnects.

    Args:
        receive: of a request whose body has been read.

    Attributes:
        task: that is cancelled.
        is_gone: whether the client has gone.
    """

    is_gone = False

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request is answered by a task"
        self.task, self._receive = task, receive
        self._watch: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, self._start)

    def stop(self) -> None:
        """Stop watching; what the task does from now on is not cancelled."""
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self.is_gone:
            self.task.uncancel()

    def _start(self) -> None:
        self._watch = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self.task.cancel()
