"""A front on grpc.aio: another way to accept the same calls, which only tests use.

Its asyncio loop runs on a thread of its own. Each operation that the engine asks for becomes a task there,
and its outcome an event in the queue that `poll` reads.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from twinspire.protos.errors import Unavailable
from twinspire.serving.engine.front import SHUTDOWN, Finished, Front, FrontCall, Metadata, Trailers

Messages = asyncio.Queue[bytes | None]
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Event:
    """What has happened, and who asked for it."""

    tag: Any
    value: Any = None
    completion_type: str = "done"


class AioCall(FrontCall):
    """One call, of which a coroutine on the asyncio loop waits for `finished`."""

    def __init__(self, front: "AioFront", path: str, context: Any, messages: Messages) -> None:
        self._front, self._context, self._messages = front, context, messages
        self.path = path
        self.metadata: Metadata = tuple(context.invocation_metadata())
        left = context.time_remaining()
        self.deadline = float("inf") if left is None else time.time() + left
        self.finished: asyncio.Future[tuple[int, bytes, Trailers, bytes | None]] = front.loop.create_future()
        self.closed: asyncio.Future[bool] = front.loop.create_future()

    @property
    def connection(self) -> bytes:
        peer: str = self._context.peer()
        return peer.encode()

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        return dict(self._context.auth_context())

    def cancel(self, reason: str) -> None:
        self._finish(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], reason.encode(), (), None)

    def await_close(self, closed: Finished) -> None:
        self._front.run(closed, self._closing())

    def was_cancelled(self, event: Event) -> bool:
        return bool(event.value)

    def await_message(self, received: Finished) -> None:
        self._front.run(received, self._messages.get())

    def message(self, event: Event) -> bytes | None:
        message: bytes | None = event.value
        return message

    def send(self, message: bytes, is_first: bool, more_follow: bool, sent: Finished) -> None:
        self._front.run(sent, self._context.write(message))

    def send_status(
        self,
        code: int,
        details: bytes,
        trailers: Trailers,
        is_first: bool,
        message: bytes | None,
        finished: Finished,
    ) -> None:
        self._finish(code, details, trailers, message)
        self._front.run(finished, self._closing())

    def reject(self, code: int, details: bytes, trailers: Trailers = ()) -> None:
        self._finish(code, details, trailers, None)

    async def _closing(self) -> bool:
        return await asyncio.shield(self.closed)

    def _finish(self, code: int, details: bytes, trailers: Trailers, message: bytes | None) -> None:
        def finish() -> None:
            if not self.finished.done():
                self.finished.set_result((code, details, trailers, message))

        self._front.loop.call_soon_threadsafe(finish)


class AioFront(Front, grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Accepts calls by a server of grpc.aio; `streams` are the methods whose calls have many messages."""

    timeout = "timeout"

    def __init__(self, streams: Sequence[str]) -> None:
        self.pending_ops = 0
        self._streams = streams
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._arrived: asyncio.Queue[AioCall] = asyncio.Queue()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._server: Any = None
        self._calls: set[AioCall] = set()

    def poll(self, deadline: float) -> Event:
        try:
            return self._events.get(timeout=max(0.0, deadline - time.time()))
        except queue.Empty:
            return Event(None, completion_type=self.timeout)

    def run(self, tag: Finished, work: Coroutine[Any, Any, Any]) -> None:
        """Report the outcome of work on the asyncio loop; None if it fails or is cancelled."""
        self.pending_ops += 1

        async def report() -> None:
            value = None
            try:
                value = await work
            except (Exception, asyncio.CancelledError):
                pass
            finally:
                self._events.put(Event(tag, value))

        asyncio.run_coroutine_threadsafe(report(), self.loop)

    def listen(self, address: str, credentials: Any = None) -> int:
        async def make() -> int:
            self._server = grpc.aio.server(handlers=(self,), options=[("grpc.so_reuseport", 0)])
            try:
                if credentials is None:
                    return int(self._server.add_insecure_port(address))
                return int(self._server.add_secure_port(address, credentials))
            except RuntimeError:
                return 0

        port = asyncio.run_coroutine_threadsafe(make(), self.loop).result()
        if port == 0:
            raise Unavailable(f"{address}: cannot listen there; is the port in use?")
        return port

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.start(), self.loop).result()

    def await_call(self, arrived: Finished) -> None:
        self.run(arrived, self._arrived.get())

    def call(self, event: Event) -> AioCall | None:
        call: AioCall | None = event.value
        return call

    def shut_down(self) -> None:
        async def stop() -> None:
            await self._server.stop(None)
            for task in asyncio.all_tasks():  # such as the wait for the next call
                if task is not asyncio.current_task():
                    task.cancel()
            self._events.put(Event(SHUTDOWN))

        asyncio.run_coroutine_threadsafe(self._drained(stop()), self.loop)

    async def _drained(self, stop: Coroutine[Any, Any, None]) -> None:
        while self._calls:
            await asyncio.sleep(0.005)
        await stop

    def cancel_all_calls(self) -> None:
        for call in [*self._calls]:
            call.cancel("the server stops")

    def destroy(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    # For grpc.aio.

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path: str = details.method

        async def unary(request: bytes, context: Any) -> bytes:
            messages: Messages = asyncio.Queue()
            messages.put_nowait(request)
            message = await self._answered(AioCall(self, path, context, messages), context)
            return b"" if message is None else message

        async def stream(requests: Any, context: Any) -> None:
            messages: Messages = asyncio.Queue(1)
            call = AioCall(self, path, context, messages)
            reading = asyncio.ensure_future(_read(requests, messages))
            try:
                if (message := await self._answered(call, context)) is not None:
                    await context.write(message)
            finally:
                reading.cancel()

        if path.rpartition("/")[2] not in self._streams:
            return grpc.unary_unary_rpc_method_handler(unary)
        return grpc.stream_stream_rpc_method_handler(stream)

    async def _answered(self, call: AioCall, context: Any) -> bytes | None:
        """Pass a call to the engine, and wait for its status."""
        self._calls.add(call)
        self._arrived.put_nowait(call)
        cancelled = True
        try:
            code, details, trailers, message = await call.finished
            cancelled = False
            if code:
                await context.abort(CODES[code], details.decode(), tuple(trailers))
            return message
        finally:
            self._calls.discard(call)
            if not call.closed.done():
                call.closed.set_result(cancelled)


async def _read(requests: Any, messages: Messages) -> None:
    async for request in requests:
        await messages.put(request)
    await messages.put(None)
