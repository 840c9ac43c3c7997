"""The service `retrieval.v1.Events`: checks requests, and passes them to the process that stores events."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from twinspire.protos import events_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.protos.inputs.events import LARGEST_TIME
from twinspire.serving.engine.call import Call, Deferred
from twinspire.serving.live.process.frames import FrameKind, StoreClient
from twinspire.serving.live.store.records import check_request_id
from twinspire.serving.wire.converters import LONGEST_USER, check_bytes

SERVICE = wire.DESCRIPTOR.services_by_name["Events"]
MAX_EVENTS = 1000  # in one request, and in the answer to one
USUAL_EVENTS = 50  # in an answer
EVENT_FIELDS = tuple(each.name for each in wire.Event.DESCRIPTOR.fields if each.name != "user")
LONGEST_ITEM, LONGEST_TYPE, LONGEST_REQUEST_ID = 1024, 64, 256  # bytes


class EventsServicer:
    """Answers each request when its events are on the disk.

    Args:
        client: the connection to the process that stores events.
        latest: reads the latest events of a user (`UserHistories.latest`).
        admit: charges the rate limit of a call's client for queries and items; may raise RateLimited.
    """

    def __init__(
        self,
        client: StoreClient,
        latest: Callable[[str, int, Callable[[Sequence[Any]], Any]], Any],
        admit: Callable[[Call, int, int], None],
    ) -> None:
        self._client, self._latest, self._admit = client, latest, admit

    def Record(self, request: wire.RecordRequest, call: Call) -> Deferred:
        """Store events; as a query that asks for as many items, they count against the rate limit."""
        count = len(request.events)
        if not 1 <= count <= MAX_EVENTS:
            raise InvalidInput("events", f"expected 1 to {MAX_EVENTS} events, got {count}")
        check_request_id(request.request_id)
        for n, event in enumerate(request.events):
            _check(event, n)
        self._admit(call, 1, count)
        content, repeatable = request.SerializeToString(), bool(request.request_id)
        kind = FrameKind.WRITE
        return self._client.defer(call, kind, content, lambda reply: reply.payload, repeatable, count)

    RecordStream = Record  # one answer for each request, in order

    def List(self, request: wire.ListRequest, call: Call) -> Any:
        """The latest events of a user; as a query that asks for as many items for the rate limit."""
        check_bytes(request.user, 1, LONGEST_USER, "user")
        if request.limit > MAX_EVENTS:
            raise InvalidInput("limit", f"expected at most {MAX_EVENTS} events, got {request.limit}")
        count = request.limit or USUAL_EVENTS
        self._admit(call, 1, count)
        return self._latest(request.user, count, _listed)


def _listed(rows: Sequence[Any]) -> wire.ListResponse:
    """The answer of rows with the columns `EVENT_FIELDS`."""
    return wire.ListResponse(events=[wire.Event(**dict(zip(EVENT_FIELDS, row, strict=True))) for row in rows])


def _check(event: wire.Event, number: int) -> None:
    """Refuse an event that no store takes, without showing its user.

    Raises:
        InvalidInput: a value is missing, too long or out of its range; the field names it.
    """
    name = f"events[{number}]"
    check_bytes(event.user, 1, LONGEST_USER, f"{name}.user")
    check_bytes(event.item_id, 1, LONGEST_ITEM, f"{name}.item_id")
    check_bytes(event.type, 1, LONGEST_TYPE, f"{name}.type")
    check_bytes(event.request_id, 0, LONGEST_REQUEST_ID, f"{name}.request_id")
    if event.HasField("value") and not math.isfinite(event.value):
        raise InvalidInput(f"{name}.value", f"expected a finite number, got {event.value}")
    if event.HasField("time") and not abs(event.time) <= LARGEST_TIME:
        raise InvalidInput(f"{name}.time", f"expected seconds since 1970, at most 1e12, got {event.time}")
    if event.HasField("position") and not (event.position and event.request_id):
        reason = f"expected 1 or more, and a request_id beside it, got {event.position}"
        raise InvalidInput(f"{name}.position", reason)
