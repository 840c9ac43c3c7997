"""The configuration of events: where they are stored, and how many of them."""

from dataclasses import dataclass

from twinspire.serving.flag_types import count_or_none, option
from twinspire.serving.live.config import LIVE


@dataclass(frozen=True)
class EventBounds:
    """How long events and items shown stay in the store, and how many of them.

    Each service that uses a store deletes what is beyond its own bounds; one that keeps no items shown
    deletes none of them.
    """

    events_max_days: int = option(
        365, "days for which an event is kept after it was recorded", partner="events"
    )
    events_max_count: int = option(
        100_000_000, "events that are kept; the oldest are deleted", partner="events"
    )
    events_shown_hours: int = option(
        0, "hours for which items shown to users are kept", count_or_none, partner="events"
    )


@dataclass(frozen=True)
class EventsConfig:
    """The store of events.

    Args:
        url: `sqlite:///path` or `postgresql://user@host/database`.
        bounds: beyond which events are deleted.
    """

    url: str
    bounds: EventBounds = EventBounds()


def default_url() -> str:
    """The URL of the store in a file beside the live items."""
    return f"sqlite:///{(LIVE / 'events.db').absolute()}"
