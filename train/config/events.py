"""`[events]`: what the events mean that a service records of users."""

from dataclasses import dataclass, field

from twinspire.protos.inputs.event_types import EventTypes


@dataclass(frozen=True)
class RecordedEventsConfig:
    """Which types of recorded events make the history of a query with a user.

        [events]
        types = { click = 1, purchase = 1, dislike = -1 }

    Of the kinds of `[data]`, `service` alone is trained on recorded events; to it they mean the same. Where
    `[data]` has a label, a recorded event with a value counts as one of the data with that label does.

    Args:
        types: type -> 1 if its events are a part of the history, -1 if their items are in no answer to their
            user. Events of other types do not count. Without any, all types are a part of the history.
    """

    types: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        EventTypes(self.types)
