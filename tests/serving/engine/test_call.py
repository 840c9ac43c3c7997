"""Calls without gRPC: what they ask of a `Dispatcher` and of the front, in which order."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import StatusCode

from twinspire.protos.errors import InvalidInput, Overloaded
from twinspire.serving.engine.batching import Job
from twinspire.serving.engine.call import Call, Method, UnaryCall
from twinspire.serving.engine.stream_call import StreamCall
from twinspire.serving.engine.unsent import UnsentBytes
from twinspire.serving.fair_queue import NOBODY


class Core:
    """A call of a front that remembers what was sent."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.metadata = ()
        self.deadline = time.time() + seconds
        self.connection = b"ipv4:192.0.2.7:5"
        self.sent: list[Any] = []
        self.receive: Callable[[Any], None]
        self.close: Callable[[Any], None]

    def await_close(self, closed: Callable[[Any], None]) -> None:
        self.close = closed

    def await_message(self, received: Callable[[Any], None]) -> None:
        self.receive = received

    def message(self, event: Any) -> bytes | None:
        message: bytes | None = event.message
        return message

    def was_cancelled(self, event: Any) -> bool:
        return bool(event.cancelled)

    def send(self, message: bytes, is_first: bool, more_follow: bool, sent: Callable[[Any], None]) -> None:
        self.sent.append(message)
        sent(None)

    def send_status(
        self, code: int, details: bytes, trailers: Any, is_first: bool, message: bytes | None, finished: Any
    ) -> None:
        self.sent.append((code, details, message))


class Server:
    """A `Dispatcher` with room for streams and for no job."""

    def __init__(self) -> None:
        self.window, self.unsent = 2, UnsentBytes(1 << 20, 1 << 20)
        self.codes: list[int] = []
        self.waiting: list[Call] = []

    def await_message(self, call: UnaryCall) -> None:
        self.waiting.append(call)

    def message_arrived(self, call: UnaryCall) -> None:
        self.waiting.remove(call)

    def submit(self, call: Call, job: Job) -> None:
        raise Overloaded("the queue is full", 1.0)

    def call_soon(self, function: Callable[[], None]) -> None:
        function()

    def failed(self, call: Call, error: Exception) -> None: ...

    def answered(self, call: Call, job: Job) -> None: ...

    def ended(self, call: Call, code: int) -> None:
        self.codes.append(code)

    def caller(self, call: Call) -> str:
        return call.peer()

    def enter_stream(self, call: StreamCall) -> bool:
        return True

    def touch_stream(self, call: StreamCall) -> None: ...

    def leave_stream(self, call: StreamCall) -> None: ...


def upper(request: bytes, call: Call) -> bytes:
    if request == b"bad":
        raise InvalidInput("request", "bad")
    return request.upper()


def event(message: bytes | None = None, cancelled: bool = False) -> Any:
    return SimpleNamespace(message=message, cancelled=cancelled)


def begun(kind: type[Call], core: Core, server: Server) -> Call:
    method = Method("/test/Upper", "Upper", bytes, upper, kind)
    return kind(server, method, core, None, NOBODY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "code", "details", "answer"),
    [
        (b"one", StatusCode.OK, b"", b"ONE"),
        (b"bad", StatusCode.INVALID_ARGUMENT, b"request: bad", None),
        (None, StatusCode.INVALID_ARGUMENT, b"request: there is none", None),
    ],
)
def test_a_call_sends_its_answer_with_its_status(
    message: bytes | None, code: StatusCode, details: bytes, answer: bytes | None
) -> None:
    core, server = Core(), Server()
    call = begun(UnaryCall, core, server)
    assert server.waiting == [call]
    core.receive(event(message))
    assert server.waiting == []
    assert core.sent == [(code.value[0], details, answer)]
    assert server.codes == [code.value[0]]
    core.close(event(cancelled=True))
    assert len(core.sent) == 1


@pytest.mark.parametrize(
    ("seconds", "code"), [(60, StatusCode.CANCELLED), (-1, StatusCode.DEADLINE_EXCEEDED)]
)
def test_a_call_that_is_cancelled_sends_nothing(seconds: float, code: StatusCode) -> None:
    core, server = Core(seconds), Server()
    call = begun(UnaryCall, core, server)
    over: list[bool] = []
    call.add_callback(lambda: over.append(call.is_active()))
    core.close(event(cancelled=True))
    core.receive(event(b"late"))
    assert (core.sent, server.codes, over) == ([], [code.value[0]], [False])


def test_a_stream_ends_with_its_first_error_after_the_answers_before() -> None:
    core, server = Core(), Server()
    begun(StreamCall, core, server)
    for message in (b"one", b"two", b"bad", b"three"):
        core.receive(event(message))
    assert core.sent[:2] == [b"ONE", b"TWO"]
    assert core.sent[2:] == [(StatusCode.INVALID_ARGUMENT.value[0], b"request: bad", None)]
