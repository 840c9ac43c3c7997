"""Calls that wait until a worker searches with a write: reads of one's own writes, and answers to writes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from protos.errors import Overloaded, Unavailable
from serving.transport.call import Call
from serving.transport.deferred import Deferred

WAIT_SECONDS = 30.0  # longest wait; shorter if the call has an earlier deadline
CHECK_SECONDS = 1.0  # between two checks for calls that have waited too long
MAX_WAITS = 1024  # calls of one worker that wait before further searches are refused
RETRY_SECONDS = 1.0  # after which a refused search may come again
HIGHEST = 2**63 - 1  # no sequence of a store is higher


class _Wait(NamedTuple):
    sequence: int
    until: float  # Unix seconds
    outcome: Callable[[], Any]
    is_stored: bool


class SequenceWaits:
    """The waiting calls of one worker; for the event loop's thread."""

    def __init__(self) -> None:
        self._waits: dict[Deferred, _Wait] = {}
        self._released, self._checked = 0, 0.0

    def add(self, sequence: int, call: Call, outcome: Callable[[], Any], is_stored: bool = False) -> Deferred:
        """Wait for a sequence.

        Args:
            sequence: that the worker has not reached.
            call: that waits; until its deadline, but at most `WAIT_SECONDS`.
            outcome: as of `Deferred.resolve`, called when the worker has reached the sequence.
            is_stored: the call is a write that is durable already, so it is too late to refuse it.

        Raises:
            Overloaded: `MAX_WAITS` calls wait.
        """
        if len(self._waits) >= MAX_WAITS and not is_stored:
            text = f"{MAX_WAITS} calls of this worker wait for changes already, and no more may"
            raise Overloaded(text, RETRY_SECONDS)
        deferred = Deferred(lambda: self._forget(deferred))
        until = min(call.deadline, time.time() + WAIT_SECONDS)
        self._waits[deferred] = _Wait(sequence, until, outcome, is_stored)
        return deferred

    def release(self, sequence: int) -> None:
        """Resolve the calls that wait for this sequence, or have waited too long; called often.

        Args:
            sequence: that the worker has reached.
        """
        if not self._waits:
            return
        now = time.monotonic()
        if sequence == self._released and now - self._checked < CHECK_SECONDS:
            return
        self._released, self._checked = sequence, now
        for deferred, each in [*self._waits.items()]:  # an outcome may wait again
            if each.sequence <= sequence:
                self._forget(deferred)
                deferred.resolve(each.outcome)
        self._end_late(sequence)

    def _end_late(self, sequence: int) -> None:
        now = time.time()
        for deferred, each in [*self._waits.items()]:
            if each.until <= now:
                self._forget(deferred)
                reason = f"sequence {each.sequence} was not reached in time: "
                reason += f"this worker's searches see changes up to {sequence}"
                reason += "; the write is stored, and will be found later" if each.is_stored else ""
                deferred.resolve(partial(_raise, Unavailable(reason)))

    def _forget(self, deferred: Deferred) -> None:
        self._waits.pop(deferred, None)


def _raise(error: Exception) -> Any:
    raise error
