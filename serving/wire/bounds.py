"""Checks of bounds that an operator sets."""

from dataclasses import fields
from typing import Any


def check_positive(bounds: Any) -> None:
    """Refuse a dataclass of bounds of which one is below 1.

    Raises:
        ValueError: a bound is below 1.
    """
    for each in fields(bounds):
        if getattr(bounds, each.name) < 1:
            raise ValueError(f"{each.name}: expected at least 1, got {getattr(bounds, each.name)}")
