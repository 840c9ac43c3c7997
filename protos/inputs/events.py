"""Histories and times as arrays: what `features.py` makes of the events of a user.

The raw value of a history is a list of item ids, oldest first. Where a tower reads the times of its events,
an element may also be a pair of an id and the seconds since 1970, or None where the time is not known.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.errors import InvalidInput

Rows = npt.NDArray[np.int64]

TIMES = "__times"  # after a history's name: the name of the array of its events' times
LATEST = 1 << 62  # seconds; of a query that is asked now, after all events of training
UNKNOWN_TIME = LATEST  # of an event whose time is not known, and of padding
LARGEST_TIME = 1e12  # seconds before and after 1970


def item_ids(history: Iterable[Any]) -> list[str]:
    """The ids of a history's items, from a raw value that fits."""
    return [event if isinstance(event, str) else event[0] for event in history]


def is_dated(history: Any) -> bool:
    """Whether a raw value is a history with times: a list in which pairs are."""
    return isinstance(history, list | tuple) and any(isinstance(event, list | tuple) for event in history)


def without_times(history: Sequence[Any]) -> tuple[list[str], list[float | None]]:
    """The ids and the times of a history that fits; a time is None where it is not known."""
    return item_ids(history), [None if isinstance(event, str) else event[1] for event in history]


def history_rows(values: Sequence[Any], max_length: int, rows: Mapping[str, int], field_name: str) -> Rows:
    """Lists of item ids -> int64 (B, L): rows of known items, newest last, 0 in front.

    Raises:
        InvalidInput: a value is no list of item ids.
    """
    encoded = []
    for each in values:
        if not is_list_of_strings(each):
            raise InvalidInput(field_name, f"expected a list of item ids, got {each!r}")
        encoded.append([rows[value] for value in each or () if value in rows][-max_length:])
    return _aligned(encoded, 0)


def dated_history_rows(
    values: Sequence[Any], max_length: int, rows: Mapping[str, int], field_name: str
) -> Rows:
    """Histories that may have times -> int64 (B, L): rows of known items, newest last, 0 in front."""
    events = [_events(each, field_name) for each in values]
    encoded = [[rows[item] for item, _ in each if item in rows][-max_length:] for each in events]
    return _aligned(encoded, 0)


def history_times(values: Sequence[Any], max_length: int, rows: Mapping[str, int], field_name: str) -> Rows:
    """Histories that may have times -> int64 (B, L): whole seconds of the events in `dated_history_rows`.

    `UNKNOWN_TIME` where a time is not known, and in front.

    Raises:
        InvalidInput: a value is no history, or a time is no number or too large.
    """
    encoded = []
    for each in values:
        known = [time for item, time in _events(each, field_name) if item in rows]
        encoded.append([whole_second(time, field_name) for time in known[-max_length:]])
    return _aligned(encoded, UNKNOWN_TIME)


def query_times(values: Sequence[Any], field_name: str) -> Rows:
    """Seconds since 1970, None for now -> int64 (B, 1): whole seconds.

    Raises:
        InvalidInput: a value is no number or too large.
    """
    return np.array([[whole_second(value, field_name)] for value in values], np.int64).reshape(-1, 1)


def whole_second(value: Any, field_name: str) -> int:
    """Seconds since 1970, rounded down; `LATEST` for None.

    Raises:
        InvalidInput: it is no number or too large.
    """
    if value is None:
        return LATEST
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(field_name, f"expected seconds since 1970, got {value!r}")
    if not abs(value) <= LARGEST_TIME:
        raise InvalidInput(field_name, f"expected seconds since 1970, at most 1e12, got {value!r}")
    return int(value // 1)


def is_list_of_strings(value: Any) -> bool:
    """Whether it is one; None counts as the empty list."""
    if value is None:
        return True
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _events(history: Any, field_name: str) -> list[tuple[str, Any]]:
    """Item id and time of each event; a time is None where there is none, and is not checked."""
    if history is None:
        return []
    if not isinstance(history, list | tuple):
        raise InvalidInput(field_name, f"expected a list of item ids, got {history!r}")
    events = []
    for event in history:
        if isinstance(event, str):
            events.append((event, None))
        elif isinstance(event, list | tuple) and len(event) == 2 and isinstance(event[0], str):
            events.append((event[0], event[1]))
        else:
            raise InvalidInput(
                field_name, f"expected item ids, or pairs of an item id and seconds, got {event!r}"
            )
    return events


def _aligned(encoded: Sequence[Sequence[int]], filling: int) -> Rows:
    """int64 (B, L): the numbers of each record, aligned to the last column; L is at least 1."""
    width = max(1, max(map(len, encoded), default=1))
    padded = np.full((len(encoded), width), filling, np.int64)
    for n, each in enumerate(encoded):
        padded[n, width - len(each) :] = each
    return padded
