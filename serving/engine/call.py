"""A call: what arrives, what is sent, and how the call ends; and the methods that calls are for.

A method is a function of a request and its call. It returns the answer's message, or its bytes, or a `Job`
whose answer is made when the job has been worked on, or a `Deferred` that becomes one of these later; the
answer of a job may be a `Deferred`, too. If it raises, the call ends with the status that
`serving/wire/status.py` gives to the error. Calls of many requests are in `stream_call.py`. Everything here
runs on the event loop's thread; a call reaches the event loop only by its `Dispatcher`.
"""

import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from twinspire.protos.errors import InvalidInput
from twinspire.protos.system import logs
from twinspire.serving.engine.batching import Job
from twinspire.serving.engine.front import FrontCall, Metadata, Trailers
from twinspire.serving.engine.unsent import UNCOUNTED, UnsentBytes
from twinspire.serving.fair_queue import Client
from twinspire.serving.wire.status import ClientGone, Code, status, trailers

log = logging.getLogger(__name__)


class ServedBundle(Protocol):
    """The bundle that answers a call, as observers see it."""

    @property
    def version(self) -> str:
        """The sha256 of the manifest."""

    @property
    def cell(self) -> float:
        """The version as a number in the metrics."""


class Deferred:
    """What a method returns when its outcome comes later; for the event loop's thread.

    def Wait(self, request: Any, call: Call) -> Deferred:
        deferred = Deferred()
        ask_another_process(request, lambda answer: call_soon(lambda: deferred.resolve(lambda: answer)))
        return deferred

    While a call waits for one, the event loop polls for `DEFERRED_SECONDS` at most, so `call_soon` is prompt.
    The call's deadline and its cancellation end the wait.

    Args:
        abandoned: called if the call ends before the outcome has come.
    """

    __slots__ = ("_abandoned", "_finish", "_outcome")

    def __init__(self, abandoned: Callable[[], None] = lambda: None) -> None:
        self._abandoned: Callable[[], None] | None = abandoned
        self._finish: Callable[[Callable[[], Any]], None] | None = None
        self._outcome: Callable[[], Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the outcome has not come, and the call waits for it."""
        return self._abandoned is not None

    def resolve(self, outcome: Callable[[], Any]) -> None:
        """Give the outcome; without effect if the call is over or there is an outcome already.

        Args:
            outcome: returns what a method may return, or raises the error of the call.
        """
        if self._abandoned is None:
            return
        self._abandoned = None
        if self._finish is None:  # the method has not returned yet
            self._outcome = outcome
        else:
            finish, self._finish = self._finish, None
            finish(outcome)

    def abandon(self) -> None:
        """End the wait, because the call is over; only `Call` calls this."""
        abandoned, self._abandoned, self._finish = self._abandoned, None, None
        if abandoned is not None:
            abandoned()

    def when_resolved(self, finish: Callable[[Callable[[], Any]], None]) -> None:
        """Call `finish` with the outcome, now or when it comes; only `Call` calls this."""
        if self._outcome is not None:
            outcome, self._outcome = self._outcome, None
            finish(outcome)
        elif self._abandoned is not None:
            self._finish = finish


class StreamAnswer:
    """The answer to one request of a stream, before it is sent: made, expected, or replaced by an error."""

    __slots__ = ("error", "message", "size")

    def __init__(self, message: bytes | None = None) -> None:
        self.message = message
        self.size = 0  # bytes, expected until the message is made
        self.error: Exception | None = None


class Dispatcher(Protocol):
    """What a call needs of the server that accepted it."""

    unsent: UnsentBytes

    def await_message(self, call: "UnaryCall") -> None:
        """The call waits for its message, and takes room in the queue until it arrives."""

    def message_arrived(self, call: "UnaryCall") -> None:
        """The message of the call has arrived, or the call is over."""

    def submit(self, call: "Call", job: Job) -> None:
        """Queue a job for a batch.

        Raises:
            Overloaded: the queue is full, or the client has too many answers to read.
        """

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call a function on the event loop's thread as soon as no event waits."""

    def wait_for(self, deferred: object) -> None:
        """A call waits for an outcome; `call_soon` is prompt until `waited_for`."""

    def waited_for(self, deferred: object) -> None:
        """The outcome has come, or the call is over."""

    def failed(self, call: "Call", error: Exception) -> None:
        """The call is about to end with an error."""

    def answered(self, call: "Call", job: Job) -> None:
        """The answer of a job has been sent."""

    def ended(self, call: "Call", code: int) -> None:
        """The call is over, with the number of its status."""

    def caller(self, call: "Call") -> str:
        """The name of the client that makes the call."""


class Call(ABC):
    """What all calls share. Made when a call arrives; its message may still be on its way.

    Args:
        dispatcher: that accepted the call.
        method: of the call.
        front: the call, as its front has accepted it.
        token_name: of the token that the client sent.
        client: that makes the call.

    Attributes:
        job: the last job of the call, for observers.
        queries: in all requests of the call.
        bundle: answers the last request, as soon as one has been chosen.
        serialised: start and end of making the last answer's message, in `time.perf_counter_ns()`.
        counted: whether `UnsentBytes` counts the answer.
        is_stream: whether the call has many requests; `isinstance` takes longer on an abstract class.
    """

    is_stream = False

    def __init__(
        self,
        dispatcher: Dispatcher,
        method: "Method",
        front: FrontCall,
        token_name: str | None,
        client: Client,
    ) -> None:
        self.method, self.client = method, client
        self.metadata: Metadata = front.metadata
        self.token_name = token_name
        self.arrived = time.perf_counter_ns()
        self.job: Job | None = None
        self.queries = 0
        self.bundle: ServedBundle | None = None
        self.serialised: tuple[int, int] | None = None
        self.counted = False
        self._dispatcher = dispatcher
        self._front = front
        self._deadline = front.deadline
        self._cancelled = False
        self._ended = False
        self._has_sent = False
        self._on_close: list[Callable[[], None]] = []
        self._deferred: tuple[Deferred, ...] = ()  # that the call waits for
        self._code: int = Code.OK
        front.await_close(self._closed)

    # For servicers; grpcio's health and reflection servicers take it for a `grpc.ServicerContext`.

    @property
    def deadline(self) -> float:
        """When the client stops waiting, in Unix seconds; infinite if it does not."""
        return self._deadline

    def is_active(self) -> bool:
        """Whether the client waits for the answer."""
        return not (self._cancelled or self._ended)

    def peer(self) -> str:
        """The client's address; different for each connection."""
        return self._front.connection.decode()

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        """The properties of the client's certificate."""
        return self._front.auth_context()

    def reserve(self, answer_bytes: int) -> None:
        """Count a large answer by its expected size, before any work is done for it.

        Raises:
            Overloaded: the client has too many bytes to read.
        """
        if answer_bytes > UNCOUNTED and not self.counted:
            self._dispatcher.unsent.hold(self, answer_bytes)
            self.counted = True

    @cached_property
    def request_id(self) -> str:
        """The client's `x-request-id`, or else a new one."""
        return logs.request_id_in(self.metadata) or uuid.uuid4().hex

    def break_off(self, reason: str) -> None:
        """End the call before its answer is sent."""
        with logs.answering(self.request_id):
            log.info("%s: cancelled: %s", self.method.name, reason)
        self._front.cancel(reason)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call a function when the call is over; returns True, as `grpc.ServicerContext` does."""
        self._on_close.append(callback)
        return True

    @property
    def call_soon(self) -> Callable[[Callable[[], None]], None]:
        """Calls a function on the event loop's thread soon; from any thread, and without the call."""
        return self._dispatcher.call_soon

    def set_code(self, code: Any) -> None:
        """End with this code of `grpc.StatusCode` when the method returns."""
        self._code = code.value[0]

    def check(self, stage: str) -> None:
        """Stop here if the client no longer waits for the answer.

        Args:
            stage: the work that comes next.

        Raises:
            ClientGone: the deadline has passed, or the client has gone.
        """
        if self._deadline <= time.time():
            raise ClientGone(Code.DEADLINE_EXCEEDED, stage)
        if self._cancelled or self._ended:
            raise ClientGone(Code.CANCELLED, stage)

    # For the event loop.

    def fail(self, error: Exception) -> None:
        """End the call with the status of an error."""
        with logs.answering(self.request_id):
            code, text = status(error)
        self._dispatcher.failed(self, error)
        self._end(code, text.encode(), None, trailers(error))
        # Breaks the reference cycle with the frames; it would keep the call alive until garbage collection.
        error.__traceback__ = error.__context__ = None

    @abstractmethod
    def _received(self, event: Any) -> None:
        """A message has arrived, or the client sends no more."""

    def _call_method(self, message: bytes | None, answer: StreamAnswer | None = None) -> None:
        """Pass a request to the method, and handle what it returns.

        Args:
            message: the request; None if the client has sent none.
            answer: to be made; None if the call is no stream.
        """
        try:
            self._handle(self.method.behaviour(self._request(message), self), answer)
        except Exception as error:
            self._failed(error, answer)

    def _handle(self, outcome: Any, answer: StreamAnswer | None) -> None:
        """Handle what a method has returned, or a deferred outcome."""
        if isinstance(outcome, Job):
            self._dispatcher.submit(self, outcome)
            self._await_job(outcome, answer)
        elif isinstance(outcome, Deferred):
            self._defer(outcome, answer)
        else:
            self._respond(outcome, answer)

    def _defer(self, deferred: Deferred, answer: StreamAnswer | None, job: Job | None = None) -> None:
        """Answer a request when its outcome comes.

        Args:
            deferred: the outcome.
            answer: to be made; None if the call is no stream.
            job: whose answer it is, if it is one's.
        """

        def finish(outcome: Callable[[], Any]) -> None:
            self._deferred = tuple(each for each in self._deferred if each is not deferred)
            self._dispatcher.waited_for(deferred)
            try:
                self._handle(outcome(), answer)
            except Exception as error:
                self._failed(error, answer)
            else:
                if job is not None:
                    self._dispatcher.answered(self, job)

        self._deferred = (*self._deferred, deferred)
        self._dispatcher.wait_for(deferred)
        deferred.when_resolved(finish)

    def _request(self, message: bytes | None) -> Any:
        """A message as the method's request.

        Raises:
            InvalidInput: there is no message, or it cannot be parsed.
        """
        if message is None:
            raise InvalidInput("request", "there is none")
        try:
            return self.method.parse(message)
        except DecodeError:
            raise InvalidInput("request", f"cannot be read as a request of {self.method.name}") from None

    @abstractmethod
    def _await_job(self, job: Job, answer: StreamAnswer | None) -> None:
        """Answer a request when its job, which has been queued, is done."""

    @abstractmethod
    def _respond(self, message: Any, answer: StreamAnswer | None) -> None:
        """Answer a request with the message that its method has returned, or with the bytes of one."""

    def _failed(self, error: Exception, answer: StreamAnswer | None) -> None:
        """End the call, because the method or a deferred outcome has raised an error."""
        self.fail(error)

    def _message(self, job: Job) -> bytes | Deferred:
        """The serialised answer of a finished job, or its answer that comes later.

        Raises:
            Exception: the job's error, or what making the answer raised.
        """
        if job.error is not None:
            raise job.error
        started = time.perf_counter_ns()
        answer = job.answer(job)
        if isinstance(answer, Deferred):
            return answer
        message = serialised(answer)
        self.serialised = started, time.perf_counter_ns()
        return message

    def _end(
        self, code: int, details: bytes, message: bytes | None, metadata: Trailers = (), tell: bool = True
    ) -> None:
        """Send the status, after a last message if there is one. Only the first end counts.

        The id of the request is in the trailing metadata if the client sent one, or the call has failed.

        Observers are told of it at once, unless `tell` is False.
        """
        if self._ended:
            return
        self._ended = True
        if not self._cancelled:
            finished = _ignore
            size = 0 if message is None else len(message)
            if self.counted or size > UNCOUNTED:  # the real size replaces a reservation, even if it is small
                self._dispatcher.unsent.sent(self, size)
                finished = self._written
            if code != Code.OK or any(key == logs.REQUEST_ID for key, _ in self.metadata):
                metadata = (*metadata, (logs.REQUEST_ID, self.request_id))
            self._front.send_status(code, details, metadata, not self._has_sent, message, finished)
        elif self.counted:
            self._dispatcher.unsent.release(self)
        for deferred in self._deferred:
            self._dispatcher.waited_for(deferred)
            deferred.abandon()
        self._deferred = ()
        if tell:
            self._dispatcher.ended(self, code)

    def _written(self, event: Any) -> None:
        """The whole answer has been written, or the call is over."""
        self._dispatcher.unsent.release(self)

    def _closed(self, event: Any) -> None:
        """The client has gone, or has received the status."""
        if self._front.was_cancelled(event):
            self._cancelled = True
            self._end(self._cancellation(), b"", None)
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback()

    def _cancellation(self) -> int:
        """The status of a call that has just been cancelled; the front cancels it at its deadline."""
        return Code.DEADLINE_EXCEEDED if self._deadline <= time.time() else Code.CANCELLED


class UnaryCall(Call):
    """One request, one answer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._dispatcher.await_message(self)
        self._front.await_message(self._received)

    def _received(self, event: Any) -> None:
        self._dispatcher.message_arrived(self)
        message = self._front.message(event)
        if self._ended:
            return
        if message is None:  # if the client has gone, the next event is the end of the call
            self._dispatcher.call_soon(self._no_message)
        else:
            self._call_method(message)

    def _no_message(self) -> None:
        if not self._ended:
            self._call_method(None)

    def _await_job(self, job: Job, answer: StreamAnswer | None) -> None:
        job.done = self._done

    def _respond(self, message: Any, answer: StreamAnswer | None) -> None:
        content = serialised(message) if self._code == Code.OK else None
        self.reserve(len(content or b""))
        self._end(self._code, b"", content)

    def _done(self, job: Job) -> None:
        try:
            message = self._message(job)
        except Exception as error:
            self.fail(error)
        else:
            if isinstance(message, Deferred):
                self._defer(message, None, job=job)
                return
            self._end(Code.OK, b"", message)
            self._dispatcher.answered(self, job)


@dataclass(frozen=True)
class Method:
    """One method of a service.

    Args:
        path: `/retrieval.v1.Retrieval/Search`.
        name: `Search`.
        parse: a message's bytes as a request.
        behaviour: answers a request.
        call_type: class of its calls.
        always: it is answered even if there is no room, because it costs little.
    """

    path: str
    name: str
    parse: Callable[[bytes], Any]
    behaviour: Callable[..., Any]
    call_type: type[Call]
    always: bool = False


def serialised(answer: Any) -> bytes:
    """The bytes of an answer, which may be bytes already."""
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


def _ignore(event: Any) -> None:
    """Nothing is left to do after the status has been sent."""
