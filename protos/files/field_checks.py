"""Checks of the fields of records that come from files; each error begins with the field's key."""

from collections.abc import Callable


def check_name(key: str, check: Callable[[str], str], name: str) -> None:
    """Check a name.

    Raises:
        ValueError: `check` refuses the name.
    """
    try:
        check(name)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def expect_within(key: str, value: float, least: float, most: float) -> None:
    """Check a number.

    Raises:
        ValueError: `value` is below `least`, above `most`, or NaN.
    """
    if not least <= value <= most:
        raise ValueError(f"{key}: expected {least} to {most}, got {value}")
