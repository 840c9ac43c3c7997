"""Calls of many messages: an answer to each request in order, or answers whenever there are some."""

import time
from collections import deque
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]

from serving.batching import Job
from serving.guard import caller
from serving.rpc import NO_FLAGS, OK, Rpc, serialised

WINDOW_BYTES = 1 << 20  # of the answers of one stream that are being made or wait to be sent
MORE_FOLLOWS = cygrpc.WriteFlag.buffer_hint


class StreamRpc(Rpc):
    """Many requests, and an answer to each in their order.

    Up to `Reactor.window` requests are in progress at once, fewer if their answers have more than
    `WINDOW_BYTES`. No further request is read meanwhile: HTTP/2's flow control holds the client back.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._answers: deque[_Answer] = deque()
        self._bytes = 0  # of the answers, expected or made, and of the one that is being sent
        self._sending_bytes = 0
        self._sending = self._receiving = self._whole = False
        self.active_at = self.arrived
        self.connection: bytes = self._call.peer()
        self.caller = caller(self)
        self._enter()

    def _enter(self) -> None:
        if self._reactor.enter_stream(self):
            self._on_close.append(lambda: self._reactor.leave_stream(self))
            self._read_on()

    @property
    def is_working(self) -> bool:
        """Whether one of its requests has no answer yet."""
        return any(each.message is None and each.error is None for each in self._answers)

    def _is_active(self) -> None:
        self.active_at = time.perf_counter_ns()
        self._reactor.message_of_stream(self)

    def _read_on(self) -> None:
        room = len(self._answers) < self._reactor.window and self._bytes < WINDOW_BYTES
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
            self._is_active()
            self._answers.append(_Answer())
            self._answer(message)
            self._read_on()

    def _outcome(self, outcome: Any) -> None:
        answer = self._answers[-1]
        if isinstance(outcome, Job):
            outcome.done = lambda job: self._done(answer, job)
            answer.size = outcome.answer_bytes
            self._bytes += answer.size
        else:
            answer.message = serialised(outcome)
            self._resize(answer)
            self._send_on()

    def _failed(self, error: Exception) -> None:
        """The call ends with it, but behind the answers to what came before."""
        self._answers[-1].error = error
        self._whole = True
        self._send_on()

    def _done(self, answer: "_Answer", job: Job) -> None:
        try:
            answer.message = self._message(job)
            self._resize(answer)
        except Exception as error:
            answer.error = error
        self._send_on()
        if answer.error is None:
            self._reactor.answered(self, job)

    def _resize(self, answer: "_Answer") -> None:
        """An answer has been made: count its real size."""
        size = len(answer.message or b"")
        self._bytes += size - answer.size
        answer.size = size

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
            self._sending_bytes = first.size
            self._reactor.start(self._call, (*head, message), self._sent)

    def _sent(self, event: Any) -> None:
        self._sending = False
        self._is_active()
        self._bytes -= self._sending_bytes
        self._send_on()
        self._read_on()


class WatchRpc(StreamRpc):
    """One request, and answers whenever there are some, until the client goes.

    It takes none of the room for streams: the method that answers bounds it.
    """

    def _enter(self) -> None:
        self._read_on()

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

    __slots__ = ("error", "message", "size")

    def __init__(self, message: bytes | None = None) -> None:
        self.message = message
        self.size = 0  # bytes, expected until the message is made
        self.error: Exception | None = None
