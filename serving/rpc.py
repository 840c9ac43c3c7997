"""One call on the wire, as the reactor sees it: what comes in, what goes out, and how it ends.

A method is a function of a request and its call. It returns the answer's message, or its bytes, or a `Job`
whose answer will be made when it has been worked on; what it raises ends the call with the status of
`status.py`. In a call of many requests each is answered so, in order. All of it runs on the reactor's thread.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from protos.errors import InvalidInput
from serving.batching import Job
from serving.status import NobodyWaits, status, trailers
from serving.unsent import UNCOUNTED

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from serving.methods import Method
    from serving.reactor import Reactor
    from serving.served import Served

NO_FLAGS = 0
OK = 0

Metadata = Sequence[tuple[str, str | bytes]]
Trailers = Sequence[tuple[str, str]]


class Rpc(ABC):
    """What all calls share. Made when a call comes in, whose message may still be on its way.

    Args:
        reactor: that accepted it.
        method: that it calls.
        event: by which it came.
        token_name: of the token that it came with.

    Attributes:
        job: the last of the call, for who tells of it.
        queries: in all its requests.
        served: the bundle that answers its last request, as soon as one has been chosen.
        serialised: start and end of making its last answer's message, in `time.perf_counter_ns()`.
        counted: whether its answer is among those of `Unsent`.
    """

    def __init__(self, reactor: "Reactor", method: "Method", event: Any, token_name: str | None) -> None:
        self.method = method
        self.metadata: Metadata = event.invocation_metadata
        self.token_name = token_name
        self.arrived = time.perf_counter_ns()
        self.job: Job | None = None
        self.queries = 0
        self.served: Served | None = None
        self.serialised: tuple[int, int] | None = None
        self.counted = False
        self._reactor = reactor
        self._call = event.call
        self._deadline: float = event.call_details.deadline  # seconds since the epoch
        self._cancelled = False
        self._ended = False
        self._headed = False
        self._on_close: list[Callable[[], None]] = []
        self._code = OK
        reactor.start(self._call, (cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),), self._closed)

    # What a servicer may ask: of grpc.ServicerContext as much as is used here.

    def is_active(self) -> bool:
        """Whether somebody waits for the answer."""
        return not (self._cancelled or self._ended)

    def invocation_metadata(self) -> Metadata:
        """What the client sent beside the message."""
        return self.metadata

    def peer(self) -> str:
        """The address at the other end, as gRPC writes it."""
        return str(self._call.peer().decode())

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        """What the client's certificate says."""
        found = cygrpc.auth_context(self._call) or {}
        return {key.decode(): value for key, value in found.items()}

    def reserve(self, answer_bytes: int) -> None:
        """Count the answer by its expected size, if it is a large one, before anything is done for it.

        Raises:
            Overloaded: the client has too many bytes to read.
        """
        if answer_bytes > UNCOUNTED and not self.counted:
            self._reactor.unsent.hold(self, answer_bytes)
            self.counted = True

    def break_off(self, reason: str) -> None:
        """End the call even though its answer is not sent."""
        log.info("%s: cancelled: %s", self.method.name, reason)
        self._call.cancel(cygrpc.StatusCode.resource_exhausted, reason)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call this when the call is over."""
        self._on_close.append(callback)
        return True

    def set_code(self, code: grpc.StatusCode) -> None:
        """End with this code where the method returns."""
        self._code = code.value[0]

    def check(self, stage: str) -> None:
        """Stop here if nobody waits for the answer any more.

        Args:
            stage: the work that would come next.

        Raises:
            NobodyWaits: the deadline has passed or the client has gone.
        """
        if self._deadline <= time.time():
            raise NobodyWaits(grpc.StatusCode.DEADLINE_EXCEEDED, stage)
        if not self.is_active():
            raise NobodyWaits(grpc.StatusCode.CANCELLED, stage)

    # What happens to it.

    def fail(self, error: Exception) -> None:
        """End the call with the status of an error."""
        code, text = status(error)
        self._reactor.observer.failed(self, error)
        self._end(code.value[0], text.encode(), None, trailers(error))
        # Its frames hold this call: in a circle it would stay open for its connection until a collection.
        error.__traceback__ = error.__context__ = None

    def _receive(self) -> None:
        self._reactor.start(self._call, (cygrpc.ReceiveMessageOperation(NO_FLAGS),), self._received)

    @abstractmethod
    def _received(self, event: Any) -> None:
        """A message has come, or there are no more."""

    def _answer(self, message: bytes | None) -> None:
        """Hand the call's method a request, and see to what it returns."""
        try:
            outcome = self.method.behaviour(self._request(message), self)
            if isinstance(outcome, Job):
                self._reactor.submit(outcome, self)
            self._outcome(outcome)
        except Exception as error:
            self._failed(error)

    def _request(self, message: bytes | None) -> Any:
        """A message as the method takes it.

        Raises:
            InvalidInput: there is none, or it is none of the method's.
        """
        if message is None:
            raise InvalidInput("request", "there is none")
        try:
            return self.method.parse(message)
        except DecodeError:
            raise InvalidInput("request", f"cannot be read as a request of {self.method.name}") from None

    @abstractmethod
    def _outcome(self, outcome: Any) -> None:
        """The method has returned this for the last request."""

    def _failed(self, error: Exception) -> None:
        self.fail(error)

    def _message(self, job: Job) -> bytes:
        """The answer of a finished job.

        Raises:
            Exception: what went wrong with it.
        """
        if job.error is not None:
            raise job.error
        started = time.perf_counter_ns()
        message = serialised(job.answer(job))
        self.serialised = started, time.perf_counter_ns()
        return message

    def _end(self, code: int, details: bytes, message: bytes | None, metadata: Trailers = ()) -> None:
        """Send the status, behind a last message where there is one. Later ends change nothing."""
        if self._ended:
            return
        self._ended = True
        operations = [cygrpc.SendStatusFromServerOperation(metadata, code, details, NO_FLAGS)]
        if not self._headed:
            operations.append(cygrpc.SendInitialMetadataOperation(None, NO_FLAGS))
        size = 0
        if message is not None:
            operations.append(cygrpc.SendMessageOperation(message, NO_FLAGS))
            size = len(message)
        if not self._cancelled:
            finished = _nothing
            if self.counted or size > UNCOUNTED:  # a reservation is replaced, also by a small answer
                self._reactor.unsent.sent(self, size)
                finished = self._written
            self._reactor.start(self._call, operations, finished)
        elif self.counted:
            self._reactor.unsent.release(self)
        self._reactor.ended(self, code)

    def _written(self, event: Any) -> None:
        """The whole answer has been written, or the call is over."""
        self._reactor.unsent.release(self)

    def _closed(self, event: Any) -> None:
        """The client has gone, or has seen the end."""
        if event.batch_operations[0].cancelled():
            self._cancelled = True
            late = self._deadline <= time.time()  # then it is gRPC that has broken the call off
            self._end(cygrpc.StatusCode.deadline_exceeded if late else cygrpc.StatusCode.cancelled, b"", None)
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback()


class UnaryRpc(Rpc):
    """One request, one answer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reactor.awaiting_message[self] = None
        self._receive()

    def _received(self, event: Any) -> None:
        if self._reactor.awaiting_message.pop(self, self) is self:
            self._reactor.late_messages.pop(self, None)
        message = event.batch_operations[0].message()
        if self._ended:
            return
        if message is None:  # the client may have gone; then that is what comes next
            self._reactor.call_soon(self._none_came)
        else:
            self._answer(message)

    def _none_came(self) -> None:
        if not self._ended:
            self._answer(None)

    def _outcome(self, outcome: Any) -> None:
        if isinstance(outcome, Job):
            outcome.done = self._done
        else:
            message = serialised(outcome) if self._code == OK else None
            self.reserve(len(message or b""))
            self._end(self._code, b"", message)

    def _done(self, job: Job) -> None:
        try:
            message = self._message(job)
        except Exception as error:
            self.fail(error)
        else:
            self._end(OK, b"", message)
            self._reactor.answered(self, job)


def serialised(answer: Any) -> bytes:
    """An answer's bytes; what is bytes already stays as it is."""
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


def _nothing(event: Any) -> None:
    """Nothing is left to do when an end has been sent."""
