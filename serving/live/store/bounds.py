"""Bounds of live writes: the same for each service that uses a store, because the store keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from serving.flag_types import check_positive, option


@dataclass(frozen=True)
class CatalogueBounds:
    """Bounds of writes.

    Raises:
        ValueError: a bound is below 1.
    """

    max_item_bytes: int = option(64 << 10, "bytes of an item's id, features and fields, as JSON")
    max_batch: int = option(1000, "items in one write")
    max_overlay: int = option(100_000, "items and deletes that the champion was built without")
    max_lag: int = option(20_000, "changes that may wait to be encoded")

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
