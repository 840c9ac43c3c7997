"""Reads the lines of a file, and refuses a line that is too long before it is in memory; objects of JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, AnyStr

from twinspire.protos.documents import parse_json
from twinspire.protos.errors import DataError

JSON_SUFFIXES = (".jsonl", ".ndjson")  # of files with an object of JSON on each line
LONGEST_LINE = 16 << 20  # bytes, of a text characters; by default servers accept much smaller requests only


def bounded_lines(file: IO[AnyStr], path: Path) -> Iterator[tuple[int, AnyStr]]:
    """The lines of a file with their numbers, from 1.

    Args:
        file: read line by line.
        path: of the file, for errors.

    Raises:
        DataError: a line cannot be read, or is longer than `LONGEST_LINE`; the text names file and line.
    """
    number = 1
    while True:
        try:
            line = file.readline(LONGEST_LINE + 1)
        except (OSError, ValueError) as error:  # UTF-8's is a ValueError
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path}: line {number}: {reason}") from None
        if not line:
            return
        if len(line) > LONGEST_LINE:
            unit = "bytes" if isinstance(line, bytes) else "characters"
            raise DataError(
                f"{path}: line {number}: longer than {LONGEST_LINE} {unit}, which a line may have"
            )
        yield number, line
        number += 1


def parse_object(line: str) -> dict[str, Any]:
    """The object of a line of JSON.

    Raises:
        ValueError: the line is not JSON, or no object.
    """
    found = parse_json(line, takes_nan=False)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {json_kind(found)}")
    return found


def json_kind(value: Any) -> str:
    """What a parsed value is in JSON, for errors."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
