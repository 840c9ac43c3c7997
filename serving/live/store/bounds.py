"""Bounds of live writes: the same for each service that uses a store, because the store keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from serving.wire.bounds import check_positive


@dataclass(frozen=True)
class CatalogueBounds:
    """Bounds of writes.

    Raises:
        ValueError: a bound is below 1.
    """

    max_item_bytes: int = field(
        default=64 << 10, metadata={"help": "bytes of an item's id, features and fields, as JSON"}
    )
    max_batch: int = field(default=1000, metadata={"help": "items in one write"})
    max_overlay: int = field(
        default=100_000, metadata={"help": "items and deletes that the champion was built without"}
    )
    max_lag: int = field(default=20_000, metadata={"help": "changes that may wait to be encoded"})

    def __post_init__(self) -> None:
        check_positive(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From the store's JSON; names of a newer program are skipped."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})

    def changed(self, given: Mapping[str, int]) -> "CatalogueBounds":
        """With other bounds by name."""
        return replace(self, **given)
