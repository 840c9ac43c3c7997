"""Which events make a user's history, and which exclude an item, as `dataset.events` of a manifest says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from twinspire.protos.errors import BundleDamaged
from twinspire.protos.toml_config import OPTIONAL, parse, to_table

HISTORY, EXCLUDES = 1, -1


@dataclass(frozen=True)
class EventTypes:
    """How a bundle was trained to read events.

    Args:
        types: type -> `HISTORY` or `EXCLUDES`; other types do not count. Without any, all make a history.
        has_label: whether a label said which events of training were positive. Then an event's value is such
            a label: an event with one that is not positive excludes its item.
        positive_from: a label is positive from here on; None where it is positive above 0.
    """

    types: dict[str, int] = field(default_factory=dict)
    has_label: bool = False
    positive_from: float | None = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        for name, use in self.types.items():
            if use not in (HISTORY, EXCLUDES):
                raise ValueError(f"types.{name}: expected {HISTORY} or {EXCLUDES}, got {use}")

    @classmethod
    def of(cls, dataset: Mapping[str, Any]) -> Self:
        """From a manifest's `dataset`; the default where it does not say.

        Raises:
            BundleDamaged: it does not fit.
        """
        try:
            found: Self = parse(dataset.get("events", {}), cls)
        except ValueError as error:
            raise BundleDamaged(f"manifest: dataset.events.{error}") from None
        return found

    def document(self) -> dict[str, Any]:
        """As a manifest's `dataset.events`."""
        found: dict[str, Any] = to_table(self)
        return found

    def use(self, kind: str, value: float | None) -> int:
        """`HISTORY`, `EXCLUDES`, or 0 where the event does not count.

        Args:
            kind: type of the event.
            value: of the event; None where it has none.
        """
        use = self.types.get(kind, 0) if self.types else HISTORY
        if use != HISTORY or value is None or not self.has_label:
            return use
        is_positive = value > 0 if self.positive_from is None else value >= self.positive_from
        return HISTORY if is_positive else EXCLUDES
