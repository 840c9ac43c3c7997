"""The records of events that both clients send, and their messages."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from twinspire.protos import events_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.serving.client.items import chosen_request_id
from twinspire.serving.wire.converters import refuse_surrogates


@dataclass(frozen=True)
class Event:
    """What a user has done with an item.

    Args:
        user: an opaque key of 1 to 256 bytes.
        item_id: of an item, which no catalogue need hold.
        type: any name of 1 to 64 bytes; the bundle says which types count.
        value: such as a rating; the label where the bundle was trained with one.
        time: seconds since 1970; by default when the service stores the event.
        request_id: of the search that the event answers, as `Answer.request_id` has it.
        position: of the item in that answer, 1 for the first.
    """

    user: str
    item_id: str
    type: str = "click"
    value: float | None = None
    time: float | None = None
    request_id: str = ""
    position: int | None = None


class Recorded(NamedTuple):
    """The answer to a request that stores events.

    Args:
        stored: number of events.
        repeated: whether an earlier request with the same id has stored them.
    """

    stored: int
    repeated: bool = False


def record_request(events: Iterable[Event], request_id: str | None = None) -> wire.RecordRequest:
    """The request to store events; arguments as of `RetrievalClient.record`.

    Raises:
        InvalidInput, TypeError: a value cannot be sent; an element is no event.
    """
    request = wire.RecordRequest(request_id=chosen_request_id(request_id))
    for n, event in enumerate([events] if isinstance(events, Event) else events):
        if not isinstance(event, Event):
            raise TypeError(f"events[{n}]: expected an Event, got {type(event).__name__}")
        if not isinstance(event.user, str):  # the error of protobuf would show it
            raise InvalidInput(f"events[{n}].user", f"expected a string, got {type(event.user).__name__}")
        with refuse_surrogates(f"events[{n}]"):
            try:
                request.events.append(wire.Event(**event.__dict__))
            except UnicodeEncodeError:
                raise
            except (ValueError, TypeError) as error:  # such as a negative position
                raise InvalidInput(f"events[{n}]", str(error)) from None
    return request


def recorded(response: wire.RecordResponse) -> Recorded:
    """The answer to a request."""
    return Recorded(response.stored, response.repeated_request)


def list_request(user: str, limit: int) -> wire.ListRequest:
    """The request for the events of a user; arguments as of `RetrievalClient.list_events`.

    Raises:
        InvalidInput: the user is no string, or no Unicode, or the limit is no number of events.
    """
    if not isinstance(user, str):
        raise InvalidInput("user", f"expected a string, got {type(user).__name__}")
    with refuse_surrogates("user"):
        try:
            return wire.ListRequest(user=user, limit=limit)
        except UnicodeEncodeError:
            raise
        except (ValueError, TypeError) as error:
            raise InvalidInput("limit", str(error)) from None


def listed(user: str, response: wire.ListResponse) -> list[Event]:
    """The events of a user, as the client returns them."""
    return [
        Event(user, **{field.name: value for field, value in each.ListFields()}) for each in response.events
    ]
