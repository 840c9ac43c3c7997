"""Bounds that the sections of an experiment share."""

from typing import Any


def at_least(least: float, section: Any, *names: str) -> None:
    """Refuse keys of a section that are below a bound."""
    for name in names:
        value = getattr(section, name)
        if not value >= least:
            raise ValueError(f"{name}: expected at least {least:g}, got {value}")


def above_zero(section: Any, *names: str) -> None:
    """Refuse keys of a section that are not above 0."""
    for name in names:
        value = getattr(section, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: expected a number above 0, got {value}")
