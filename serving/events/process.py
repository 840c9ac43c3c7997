"""The process that owns the store of events, one for each host: it commits the events of all workers.

It takes all requests that wait and commits them in one transaction, so a flush of the disk serves many.
Between them it deletes what is beyond the bounds. If the store cannot be written, requests are refused with
the reason.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from twinspire.protos import events_pb2 as wire
from twinspire.protos.errors import TwinspireError, Unavailable
from twinspire.serving.events.config import EventsConfig
from twinspire.serving.events.store import MOST_DELETED, EventStore
from twinspire.serving.live.process.frames import (
    Channel,
    FrameKind,
    FrameServer,
    PendingRequest,
    Requests,
    take_group,
)
from twinspire.serving.live.store.database import EVENTS as STORE
from twinspire.serving.live.store.database import detail, operator_errors
from twinspire.serving.shared_state import EVENTS, SharedState
from twinspire.serving.supervisor import Heartbeat, WorkerHandle

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # for which it waits for a request
GROUP_EVENTS = 10_000  # events of one transaction, after which no request is added to it
PRUNE_SECONDS = 60.0  # between two looks for events beyond the bounds

Outcomes = Sequence[wire.RecordResponse | TwinspireError]  # one of each request


class EventsProcess:
    """Owns the store of events; created in its own process, which calls `run`.

    Args:
        config: of the store, which exists.
        channel: to the workers.
        shared_state: with the entry `EVENTS`.
        grace: seconds for the workers to finish when the service stops.
        heartbeat: of this process.
    """

    def __init__(
        self,
        config: EventsConfig,
        channel: Channel,
        shared_state: SharedState,
        grace: float,
        heartbeat: Heartbeat,
    ) -> None:
        self._config, self._shared_state = config, shared_state
        self._grace, self._heartbeat = grace, heartbeat
        self._requests: Requests = SimpleQueue()
        self._frames = FrameServer("events", channel, self._requests.put)
        self._store: EventStore | None = None
        self._entry: dict[str, Any] = {**shared_state.read(EVENTS), "pid": os.getpid(), "last_error": ""}
        self._prune_due = 0.0

    def run(self, handle: WorkerHandle) -> None:
        """Work until the service stops and the workers have ended their calls."""
        self._heartbeat.reset()
        self._frames.start()
        handle.ready()
        self._frames.work(handle, self._grace, self.step)
        self._frames.stop()
        if self._store is not None:
            self._store.close()

    def step(self, seconds: float = POLL_SECONDS) -> None:
        """Store the events that wait; wait up to `seconds` if there are none."""
        self._heartbeat.beat()
        group = take_group(self._requests, seconds, GROUP_EVENTS)
        for kind, store in ((FrameKind.SHOWN, self._show), (FrameKind.WRITE, self._record)):
            self._carry_out([each for each in group if each.frame.kind == kind], store)
        self._heartbeat.beat()
        if time.monotonic() >= self._prune_due:
            self._prune()
        if self._entry != self._shared_state.read(EVENTS):
            self._shared_state.write(EVENTS, self._entry)

    def _carry_out(
        self, requests: Sequence[PendingRequest], store: Callable[[Sequence[bytes]], Outcomes]
    ) -> None:
        """Store what requests of one kind have in one transaction, and reply."""
        if not requests:
            return
        outcomes: Outcomes
        try:
            outcomes = store([each.frame.payload for each in requests])
            self._entry["last_error"] = ""
        except TwinspireError as error:
            outcomes = [self._failed(error)] * len(requests)
        except Exception:  # of any kind: the workers would send it again to the next process
            log.exception("events could not be stored")
            outcomes = [TwinspireError("the events could not be stored; the log says why")] * len(requests)
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, TwinspireError):
                request.refuse(outcome)
            else:
                request.answer(0, outcome.SerializeToString())

    def _show(self, payloads: Sequence[bytes]) -> list[wire.RecordResponse]:
        """Store what was shown; errors as of `EventStore.show`."""
        self._opened().show([answer for payload in payloads for answer in json.loads(payload)])
        return [wire.RecordResponse()] * len(payloads)

    def _record(self, payloads: Sequence[bytes]) -> list[wire.RecordResponse | TwinspireError]:
        """Store events; returns and errors as of `EventStore.record`."""
        started = time.monotonic()
        outcomes = self._opened().record([*map(wire.RecordRequest.FromString, payloads)])
        self._entry["stored"] += sum(map(_stored, outcomes))
        self._entry["commits"] += 1
        self._entry["commit_seconds"] += time.monotonic() - started
        return outcomes

    def _prune(self) -> None:
        """Delete a part of the events beyond the bounds, and look again soon if there are more."""
        bounds, deleted = self._config.bounds, 0
        try:
            deleted = self._opened().prune(
                bounds.events_max_days, bounds.events_max_count, bounds.events_shown_hours
            )
            self._entry["last_error"] = ""
        except TwinspireError as error:
            self._failed(error)
        except Exception:  # of any kind: the service goes on without it
            log.exception("old events could not be deleted")
        self._prune_due = time.monotonic() + (0.0 if deleted >= MOST_DELETED else PRUNE_SECONDS)

    def _opened(self) -> EventStore:
        """The store, opened again if it could not be opened before.

        Raises:
            ConfigError, Unavailable: it cannot be opened now.
        """
        if self._store is None:
            self._store = EventStore.open(self._config.url, create=False)
        return self._store

    def _failed(self, error: TwinspireError) -> Unavailable:
        """An error of the store, as clients may read it."""
        reason = str(error)
        if reason != self._entry["last_error"]:
            log.error("%s%s", error, detail(error))
        self._entry["last_error"] = reason
        return Unavailable(reason)


def initial_events_entry(config: EventsConfig) -> dict[str, Any]:
    """The initial entry `EVENTS`; makes the store if it does not exist.

    Raises:
        ConfigError: the store is not one, or is damaged.
        Unavailable: the store does not answer.
    """
    with operator_errors(config.url, STORE):
        EventStore.open(config.url).close()
    return {"stored": 0, "commits": 0, "commit_seconds": 0.0, "last_error": ""}


def _stored(outcome: wire.RecordResponse | TwinspireError) -> int:
    """Events that a request has stored, other than by an earlier request with its id."""
    if isinstance(outcome, TwinspireError) or outcome.repeated_request:
        return 0
    return outcome.stored
