"""Checks that several sections of an experiment share."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from twinspire.protos.toml_config import FROM_DATA


def at_least(least: float, section: Any, *names: str) -> None:
    """Refuse keys of a section whose value is below a bound or infinite; one that is not set yet passes."""
    for name in names:
        value = getattr(section, name)
        if value is not FROM_DATA and not least <= value < float("inf"):
            expected = "a finite number" if value == float("inf") else f"at least {least:g}"
            raise ValueError(f"{name}: expected {expected}, got {value}")


def above_zero(section: Any, *names: str) -> None:
    """Refuse keys of a section whose value is not above 0, or is infinite."""
    for name in names:
        value = getattr(section, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: expected a number above 0, got {value}")


def below_one(section: Any, *names: str) -> None:
    """Refuse shares that are not from 0 to below 1."""
    for name in names:
        if not 0 <= getattr(section, name) < 1:
            raise ValueError(f"{name}: expected 0 to below 1, got {getattr(section, name)}")


def refuse_unused(section: Any, conditions: Mapping[str, tuple[bool, tuple[str, ...]]]) -> None:
    """Refuse keys that were set but have no effect.

    Args:
        conditions: text of a condition -> whether it holds, and the keys that have an effect only then.
    """
    defaults = {each.name: each.default for each in fields(section)}
    for condition, (holds, names) in conditions.items():
        for name in names:
            if not holds and getattr(section, name) != defaults[name]:
                raise ValueError(f"{name}: goes with {condition}; leave it out, or set that, too")
