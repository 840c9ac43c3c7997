"""Calls of many requests, or of many answers: streams of searches, and watches."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

from twinspire.protos.errors import Overloaded
from twinspire.serving.engine.batching import Job
from twinspire.serving.engine.call import (
    Call,
    Deferred,
    Dispatcher,
    StreamAnswer,
    serialised,
)
from twinspire.serving.wire.status import Code

WINDOW_BYTES = 1 << 20  # of the answers of one stream that are being made or wait to be sent
RETRY_SECONDS = 1.0  # after which a refused `WatchCall` may come again


class StreamDispatcher(Dispatcher, Protocol):
    """What a stream needs of the server that accepted it."""

    window: int  # requests of one stream that may be in progress at once

    def enter_stream(self, call: "StreamCall") -> bool:
        """Whether there is room for one more stream; if not, the call has failed."""

    def touch_stream(self, call: "StreamCall") -> None:
        """A message of the stream has arrived or been sent, so it is not idle."""

    def leave_stream(self, call: "StreamCall") -> None:
        """The stream is over."""


class StreamCall(Call):
    """Many requests, and an answer to each in their order.

    Up to `StreamDispatcher.window` requests are in progress at once, fewer if their answers have more than
    `WINDOW_BYTES`. No further request is read meanwhile, and HTTP/2's flow control holds the client back.
    """

    is_stream = True
    _dispatcher: StreamDispatcher

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._answers: deque[StreamAnswer] = deque()
        self._bytes = 0  # of the answers, expected or made, including the one that is being sent
        self._sending_bytes = 0
        self._is_sending = self._is_receiving = self._is_complete = False
        self._awaits_close = False  # OK has been sent, and observers are told when the call is over
        self.active_at = self.arrived
        self.connection = self._front.connection
        self.caller = self._dispatcher.caller(self)
        self._enter()

    def _enter(self) -> None:
        if self._dispatcher.enter_stream(self):
            self._on_close.append(lambda: self._dispatcher.leave_stream(self))
            self._read_on()

    @property
    def is_working(self) -> bool:
        """Whether a request has no answer yet."""
        return any(each.message is None and each.error is None for each in self._answers)

    def _touch(self) -> None:
        self.active_at = time.perf_counter_ns()
        self._dispatcher.touch_stream(self)

    def _read_on(self) -> None:
        has_room = len(self._answers) < self._dispatcher.window and self._bytes < WINDOW_BYTES
        if has_room and not (self._is_receiving or self._is_complete or self._ended or self._cancelled):
            self._is_receiving = True
            self._front.await_message(self._received)

    def _received(self, event: Any) -> None:
        self._is_receiving = False
        message = self._front.message(event)
        if message is None:
            self._is_complete = True
            self._send_on()
        elif not self._ended:
            self._touch()
            answer = StreamAnswer()
            self._answers.append(answer)
            self._call_method(message, answer)
            self._read_on()

    def _await_job(self, job: Job, answer: StreamAnswer | None) -> None:
        assert answer is not None, "each request of a stream has one"
        job.done = lambda job: self._done(answer, job)
        answer.size = job.answer_bytes
        self._bytes += answer.size

    def _respond(self, message: Any, answer: StreamAnswer | None) -> None:
        assert answer is not None, "each request of a stream has one"
        answer.message = serialised(message)
        self._resize(answer)
        self._send_on()

    def _failed(self, error: Exception, answer: StreamAnswer | None) -> None:
        """The call ends with the error, after the answers to earlier requests."""
        assert answer is not None, "each request of a stream has one"
        answer.error = error
        self._is_complete = True
        self._send_on()

    def _done(self, answer: StreamAnswer, job: Job) -> None:
        try:
            message = self._message(job)
            if isinstance(message, Deferred):
                self._defer(message, answer, job=job)
                return
            answer.message = message
            self._resize(answer)
        except Exception as error:
            answer.error = error
            if not self.is_active():  # frames of an error that is not sent would hold the call
                error.__traceback__ = error.__context__ = None
        self._send_on()
        if answer.error is None:
            self._dispatcher.answered(self, job)

    def _resize(self, answer: StreamAnswer) -> None:
        """Count the real size of an answer that has been made."""
        size = len(answer.message or b"")
        self._bytes += size - answer.size
        answer.size = size

    def _send_on(self) -> None:
        """Send the next answer if it is ready, or the status after the last one."""
        if self._is_sending or self._ended or self._cancelled:
            return
        if not self._answers:
            if self._is_complete:
                # The client sends no more, or it has gone: gRPC reports both in the same way, and then, with
                # the end of the call, which of them it was.
                self._awaits_close = True
                self._end(Code.OK, b"", None, tell=False)
            return
        first = self._answers[0]
        if first.error is not None:
            self.fail(first.error)
        elif first.message is not None:
            self._answers.popleft()
            more_follow = bool(self._answers) and self._answers[0].message is not None
            is_first = not self._has_sent
            self._has_sent = self._is_sending = True
            self._sending_bytes = first.size
            self._front.send(first.message, is_first, more_follow, self._sent)

    def _sent(self, event: Any) -> None:
        self._is_sending = False
        self._touch()
        self._bytes -= self._sending_bytes
        self._send_on()
        self._read_on()

    def _closed(self, event: Any) -> None:
        if self._awaits_close:
            self._dispatcher.ended(
                self, self._cancellation() if self._front.was_cancelled(event) else Code.OK
            )
        super()._closed(event)


class WatchCall(StreamCall):
    """One request, and any number of answers at any time, until the client ends the call.

    It does not count among the open streams; the method limits the number of these calls itself. A method
    with many answers sends the next one while `is_clear`, or when `on_clear` is called.

    Attributes:
        on_clear: called when the last answer has been sent.
    """

    on_clear: Callable[[], None] | None = None

    @property
    def is_clear(self) -> bool:
        """Whether no answer waits to be sent."""
        return not (self._is_sending or self._answers)

    def await_outcome(self, deferred: Deferred) -> None:
        """Wait for an outcome: an answer to send, or None; an error that it raises ends the call."""
        self._defer(deferred, None)

    def _respond(self, message: Any, answer: StreamAnswer | None) -> None:
        if message is not None:
            self._push(message)

    def _failed(self, error: Exception, answer: StreamAnswer | None) -> None:
        self.fail(error)

    def _enter(self) -> None:
        self._read_on()

    def _received(self, event: Any) -> None:
        message = self._front.message(event)
        if self._ended or self._cancelled:
            return
        try:
            self.method.behaviour(self._request(message), self, self._push)
        except Exception as error:
            self.fail(error)

    def _push(self, message: Any) -> None:
        """Send an answer; None ends the call."""
        if message is None:
            self._is_complete = True
        else:
            self._answers.append(StreamAnswer(serialised(message)))
        self._send_on()

    def _sent(self, event: Any) -> None:
        super()._sent(event)
        if self.on_clear is not None and self.is_clear and not (self._ended or self._cancelled):
            self.on_clear()


class OpenCalls:
    """Bounds the open calls of one method, such as `Health/Watch`; for the event loop's thread.

    Args:
        method: its name, for errors.
        per_connection: calls that one connection may have open.
        per_worker: calls that the worker may have open.
    """

    def __init__(self, method: str, per_connection: int, per_worker: float = math.inf) -> None:
        self._method, self._per_connection, self._per_worker = method, per_connection, per_worker
        self._of_connection: Counter[str] = Counter()
        self._open = 0

    def enter(self, call: Call) -> None:
        """Count a call until it is over.

        Raises:
            Overloaded: its connection, or the worker, has as many calls open as are allowed.
        """
        connection = call.peer()
        if self._of_connection[connection] >= self._per_connection:
            raise self._refusal("connection", self._per_connection)
        if self._open >= self._per_worker:
            raise self._refusal("worker", self._per_worker)
        self._of_connection[connection] += 1
        self._open += 1
        call.add_callback(lambda: self._leave(connection))

    def _leave(self, connection: str) -> None:
        self._open -= 1
        self._of_connection[connection] -= 1
        if not self._of_connection[connection]:
            del self._of_connection[connection]

    def _refusal(self, owner: str, most: float) -> Overloaded:
        return Overloaded(f"a {owner} may have {most} calls of {self._method} open", RETRY_SECONDS)
