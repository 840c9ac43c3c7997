"""One call on the wire, as the reactor sees it: what comes in, what goes out, and how it ends.

A method is a function of a request and its call. It returns the answer's message, or its bytes, or a `Job`
whose answer will be made when it has been worked on; what it raises ends the call with the status of
`status.py`. In a call of many requests each is answered so, in order. All of it runs on the reactor's thread.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from protos.errors import InvalidInput
from serving.batching import Job
from serving.status import NobodyWaits, status, trailers

if TYPE_CHECKING:
    from serving.methods import Method
    from serving.reactor import Reactor

NO_FLAGS = 0
MORE_FOLLOWS = cygrpc.WriteFlag.buffer_hint
OK = 0

Metadata = Sequence[tuple[str, str | bytes]]
Trailers = Sequence[tuple[str, str]]


class Rpc:
    """What all calls share. Made when a call comes in, whose message may still be on its way.

    Args:
        reactor: that accepted it.
        method: that it calls.
        event: by which it came.
        token_name: of the token that it came with.

    Attributes:
        job: the last of the call, for who tells of it.
        queries: in all its requests.
        serialised: start and end of making its last answer's message, in `time.perf_counter_ns()`.
    """

    def __init__(self, reactor: "Reactor", method: "Method", event: Any, token_name: str | None) -> None:
        self.method = method
        self.metadata: Metadata = event.invocation_metadata
        self.token_name = token_name
        self.arrived = time.perf_counter_ns()
        self.job: Job | None = None
        self.queries = 0
        self.serialised: tuple[int, int] | None = None
        self._reactor = reactor
        self._call = event.call
        self._deadline: float = event.call_details.deadline  # seconds since the epoch
        self._cancelled = False
        self._ended = False
        self._headed = False
        self._on_close: list[Callable[[], None]] = []
        self._code, self._details = OK, b""
        reactor.start(self._call, (cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS),), self._closed)

    # What a servicer may ask: of grpc.ServicerContext as much as is used here.

    def time_remaining(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.time())

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

    def _received(self, event: Any) -> None:
        raise NotImplementedError

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

    def _outcome(self, outcome: Any) -> None:
        raise NotImplementedError

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
        self._reactor.observer.answered(self, job, started)
        return message

    def _end(self, code: int, details: bytes, message: bytes | None, metadata: Trailers = ()) -> None:
        """Send the status, behind a last message where there is one. Later ends change nothing."""
        if self._ended:
            return
        self._ended = True
        operations = [cygrpc.SendStatusFromServerOperation(metadata, code, details, NO_FLAGS)]
        if not self._headed:
            operations.append(cygrpc.SendInitialMetadataOperation(None, NO_FLAGS))
        if message is not None:
            operations.append(cygrpc.SendMessageOperation(message, NO_FLAGS))
        if not self._cancelled:
            self._reactor.start(self._call, operations, _nothing)
        self._reactor.ended(self, code)

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
        self._reactor.silent[self] = None
        self._receive()

    def _received(self, event: Any) -> None:
        self._reactor.silent.pop(self, None)
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
            self._end(self._code, self._details, serialised(outcome) if self._code == OK else None)

    def _done(self, job: Job) -> None:
        try:
            message = self._message(job)
        except Exception as error:
            self.fail(error)
        else:
            self._end(OK, b"", message)


class StreamRpc(Rpc):
    """Many requests, and an answer to each in their order.

    So many are on their way at once, and no more are read: HTTP/2's flow control holds the client back.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._answers: deque[_Answer] = deque()
        self._sending = self._receiving = self._whole = False
        self._on_close.append(self._reactor.leave_stream)
        if self._reactor.enter_stream(self):
            self._read_on()

    def _read_on(self) -> None:
        room = len(self._answers) < self._reactor.window
        if room and not (self._receiving or self._whole or self._ended or self._cancelled):
            self._receiving = True
            self._receive()

    def _received(self, event: Any) -> None:
        self._receiving = False
        message = event.batch_operations[0].message()
        if message is None:
            self._whole = True
            self._send_on()
        elif not self._ended:
            self._answers.append(_Answer())
            self._answer(message)
            self._read_on()

    def _outcome(self, outcome: Any) -> None:
        answer = self._answers[-1]
        if isinstance(outcome, Job):
            outcome.done = lambda job: self._done(answer, job)
        else:
            answer.message = serialised(outcome)
            self._send_on()

    def _failed(self, error: Exception) -> None:
        """The call ends with it, but behind the answers to what came before."""
        self._answers[-1].error = error
        self._whole = True
        self._send_on()

    def _done(self, answer: "_Answer", job: Job) -> None:
        try:
            answer.message = self._message(job)
        except Exception as error:
            answer.error = error
        self._send_on()

    def _send_on(self) -> None:
        """Send the next answer if it is ready, or the end if there are no more."""
        if self._sending or self._ended or self._cancelled:
            return
        if not self._answers:
            if self._whole:
                self._end(OK, b"", None)
            return
        first = self._answers[0]
        if first.error is not None:
            self.fail(first.error)
        elif first.message is not None:
            self._answers.popleft()
            more = bool(self._answers) and self._answers[0].message is not None
            message = cygrpc.SendMessageOperation(first.message, MORE_FOLLOWS if more else NO_FLAGS)
            head = () if self._headed else (cygrpc.SendInitialMetadataOperation(None, NO_FLAGS),)
            self._headed = self._sending = True
            self._reactor.start(self._call, (*head, message), self._sent)

    def _sent(self, event: Any) -> None:
        self._sending = False
        self._send_on()
        self._read_on()


class WatchRpc(StreamRpc):
    """One request, and answers whenever there are some, until the client goes."""

    def _received(self, event: Any) -> None:
        message = event.batch_operations[0].message()
        if self._ended or self._cancelled:
            return
        try:
            self.method.behaviour(self._request(message), self, self._push)
        except Exception as error:
            self.fail(error)

    def _push(self, message: Any) -> None:
        """Send an answer; None is the end."""
        if message is None:
            self._whole = True
        else:
            self._answers.append(_Answer(serialised(message)))
        self._send_on()


class _Answer:
    """An answer's place in a stream."""

    __slots__ = ("error", "message")

    def __init__(self, message: bytes | None = None) -> None:
        self.message = message
        self.error: Exception | None = None


def serialised(answer: Any) -> bytes:
    """An answer's bytes; what is bytes already stays as it is."""
    return answer if isinstance(answer, bytes) else bytes(answer.SerializeToString())


def _nothing(event: Any) -> None:
    """Nothing is left to do when an end has been sent."""
