"""Calls that wait until a worker searches with a write: reads of one's own writes, and answers to writes.

The waiting requests of a worker share `ROOM_BYTES`. Where they fill it, the next wait of the client that
holds most is refused, and its youngest waits end to make room for those of others. So a client with less than
its share of the room always waits as long as it asked for.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from twinspire.protos.errors import Overloaded, Unavailable
from twinspire.serving.engine.call import Call, Deferred

WAIT_SECONDS = 30.0  # longest wait; shorter if the call has an earlier deadline
CHECK_SECONDS = 1.0  # between two checks for calls that have waited too long
ROOM_BYTES = 32 << 20  # of the waiting requests of one worker
CALL_BYTES = 32 << 10  # that each of them counts besides its message, so that no more than 1,024 wait
RETRY_SECONDS = 1.0  # after which a refused search may come again
# Writes that other hosts may have made since this host last read the store, at most.
AHEAD = 100_000
FULL = "too many searches wait for changes in this worker, most of them from this client; retry later"


class _Wait(NamedTuple):
    sequence: int
    until: float  # Unix seconds
    outcome: Callable[[], Any]
    is_stored: bool
    client: str
    size: int  # bytes


class SequenceWaits:
    """The waiting calls of one worker; for the event loop's thread."""

    def __init__(self) -> None:
        self._waits: dict[Deferred, _Wait] = {}
        self._held: Counter[str] = Counter()  # client -> bytes of its waits that may be ended
        self._bytes = 0  # of all clients
        self._released, self._checked = 0, 0.0

    def add(
        self, sequence: int, call: Call, outcome: Callable[[], Any], size: int = 0, is_stored: bool = False
    ) -> Deferred:
        """Wait for a sequence.

        Args:
            sequence: that the worker has not reached.
            call: that waits; until its deadline, but at most `WAIT_SECONDS`.
            outcome: as of `Deferred.resolve`, called when the worker has reached the sequence.
            size: bytes of the request that waits.
            is_stored: the call is a write that is durable already, so it is too late to refuse it, and the
                bytes that wait to be written are bounded elsewhere.

        Raises:
            Overloaded: there is no room, and no other client holds more of it than this one would.
        """
        client, size = call.client.name, 0 if is_stored else size + CALL_BYTES
        self._make_room(client, size)
        deferred = Deferred(lambda: self._forget(deferred))
        until = min(call.deadline, time.time() + WAIT_SECONDS)
        self._waits[deferred] = _Wait(sequence, until, outcome, is_stored, client, size)
        self._held[client] += size
        self._bytes += size
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

    def _make_room(self, client: str, size: int) -> None:
        """End waits of the client that holds most until there are `size` bytes for another.

        Raises:
            Overloaded: this client would hold most.
        """
        while size and self._bytes and self._bytes + size > ROOM_BYTES:
            most = max(self._held, key=lambda each: self._held[each])
            if self._held[client] + size > self._held[most]:
                raise Overloaded(FULL, RETRY_SECONDS)
            youngest = next(d for d, w in reversed(self._waits.items()) if w.client == most and w.size)
            self._forget(youngest)
            youngest.resolve(partial(_raise, Overloaded(FULL, RETRY_SECONDS)))

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
        each = self._waits.pop(deferred, None)
        if each is not None:
            self._bytes -= each.size
            self._held[each.client] -= each.size
            if not self._held[each.client]:
                del self._held[each.client]


def _raise(error: Exception) -> Any:
    raise error
