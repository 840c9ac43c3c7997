"""Reads queries from a file: on each line a text, or a JSON object with the fields of `Query`."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from twinspire.protos.errors import DataError
from twinspire.serving.client.lines import JSON_SUFFIXES, LONGEST_LINE, bounded_lines, json_kind, parse_object
from twinspire.serving.retrieval.query import Query, Value

Format = Literal["text", "jsonl"]
FIELDS = ("text", "history", "features", "item_id", "history_times", "user")


def format_of(path: Path) -> Format:
    """The format of a file, by its name."""
    return "jsonl" if path.suffix in JSON_SUFFIXES else "text"


def read_queries(file: BinaryIO, path: Path, form: Format) -> Iterator[tuple[int, Query]]:
    """Line numbers, from 1, with their queries; blank lines are skipped.

    Args:
        file: read line by line.
        path: of the file, for errors.
        form: its format.

    Raises:
        DataError: a line is not a query; the text names file and line.
    """
    for number, line in bounded_lines(file, path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            query = Query(text=text) if form == "text" or not text.strip() else _query(text)
        except ValueError as error:  # JSON's and UTF-8's are ValueErrors
            raise DataError(f"{path}: line {number}: {error}") from None
        if text.strip():
            yield number, query


def count_lines(path: Path) -> int | None:
    """Number of lines of a file, blank lines included; None if it can be read only once.

    Raises:
        DataError: it is missing, or cannot be read.
    """
    if path.exists() and not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return sum(1 for _ in iter(lambda: file.readline(LONGEST_LINE), b""))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _query(text: str) -> Query:
    found = parse_object(text)
    if unknown := sorted(set(found) - set(FIELDS)):
        raise ValueError(f"{unknown[0]}: unknown key; a query has {', '.join(FIELDS)}")
    features = found.get("features") or {}
    if not isinstance(features, dict):
        raise ValueError(f"features: expected a JSON object, got {json_kind(features)}")
    return Query(
        text=_text(found, "text"),
        history=_strings(found.get("history") or [], "history"),
        features={name: _value(value, f"features.{name}") for name, value in features.items()},
        item_id=_text(found, "item_id"),
        history_times=_times(found.get("history_times") or []),
        user=_text(found, "user"),
    )


def _text(found: dict[str, Any], key: str) -> str | None:
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key}: expected a string, got {json_kind(value)}")
    return value


def _strings(value: Any, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{key}: expected an array of strings, got {json_kind(value)}")
    return tuple(value)


def _times(value: Any) -> tuple[float, ...]:
    """Seconds since 1970; NaN for null, which is a time that is not known."""
    if not isinstance(value, list):
        raise ValueError(f"history_times: expected an array of numbers, got {json_kind(value)}")
    return tuple(math.nan if each is None else _seconds(each) for each in value)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"history_times: expected seconds since 1970, got {json_kind(value)}")
    return _number(value, "history_times")


def _value(value: Any, key: str) -> Value:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _strings(value, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key}: expected a string, a number or an array of strings, got {json_kind(value)}")
    return _number(value, key)


def _number(value: float, key: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise ValueError(f"{key}: expected a number that a double can hold")
    return number
