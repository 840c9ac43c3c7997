"""Sinks: where a worker sends the requests that it has served, such as the request log and the shadow.

A sink gets two kinds of records, and takes either or both:

- `record_call`: a call that has ended, of any method, with its metadata, status and times. A call that was
  refused before its message was read is not recorded.
- `sample` returns a function that takes a request and its serialised response. A stream calls it for each of
  its messages. Only responses of the champion reach it.

To add a sink, write a module with a `RequestSink` and a `SinkOptions`, and list the options in
`config.SINKS`; the flags of `python -m serving serve` follow from the options' fields.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serving.engine.call_record import CallRecord

# Takes a request, its serialised response, and the number of queries in its batch. Never blocks or fails.
TakeMessage = Callable[[Any, bytes, int], None]


class RequestSink:
    """Takes a part of the served requests. One worker's own; used on the event loop's thread.

    Attributes:
        needs_texts: whether `record_call` needs the texts of queries.
    """

    needs_texts = False

    def sample(self, method: str) -> TakeMessage | None:
        """A function that takes the next request of a method and its response; None if it is not sampled."""
        return None

    def wants_call(self, code: str) -> bool:
        """Whether `record_call` is to be called for a call that has ended with this gRPC status."""
        return False

    def record_call(self, call: CallRecord, trace_id: str = "") -> None:
        """Take a call that has ended; `trace_id` is empty if the call is not traced."""

    def stop(self) -> None:
        """The worker stops; nothing is recorded afterwards."""


@dataclass(frozen=True)
class SinkOptions(ABC):
    """The options of one kind of sink: each `flag_types.option` of a subclass is a flag of `serve`."""

    @abstractmethod
    def check(self) -> None:
        """Called before any process is forked.

        Raises:
            ValueError: an option is out of its range.
        """

    @abstractmethod
    def open(self, worker: int) -> RequestSink | None:
        """The sink of a worker, made after the fork; None if the options ask for none.

        Args:
            worker: slot of the worker.
        """


class RequestSinks:
    """The sinks of a worker.

    Attributes:
        all: the sinks.
    """

    def __init__(self, sinks: Sequence[RequestSink]) -> None:
        self.all = tuple(sinks)
        self._samplers = tuple(sink.sample for sink in sinks if type(sink).sample is not RequestSink.sample)
        self.needs_texts = any(sink.needs_texts for sink in sinks)

    @property
    def takes_messages(self) -> bool:
        """Whether any of the sinks takes requests and responses."""
        return bool(self._samplers)

    def sample(self, method: str) -> TakeMessage | None:
        """A function that passes a request and its response to the sinks that sample it, if any."""
        takers = [taker for sample in self._samplers if (taker := sample(method)) is not None]
        if len(takers) < 2:
            return takers[0] if takers else None

        def take(request: Any, response: bytes, batch: int) -> None:
            for taker in takers:
                taker(request, response, batch)

        return take

    def stop(self) -> None:
        """As `RequestSink.stop`."""
        for sink in self.all:
            sink.stop()
