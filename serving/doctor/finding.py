"""What a check finds."""

from dataclasses import dataclass
from enum import StrEnum


class FindingState(StrEnum):
    """How good or bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # it works, but could be better
    PROBLEM = "problem"  # something does not work until it is mended


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        check: its name.
        state: how good or bad it is.
        found: what was found, with units.
        todo: what to do; empty if nothing is to be done.
    """

    check: str
    state: FindingState
    found: str
    todo: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing is to be done."""
    return Finding(check, FindingState.OK, found)


def warning(check: str, found: str, todo: str) -> Finding:
    """It works, but could be better."""
    return Finding(check, FindingState.WARNING, found, todo)


def problem(check: str, found: str, todo: str) -> Finding:
    """Something does not work until it is mended."""
    return Finding(check, FindingState.PROBLEM, found, todo)
