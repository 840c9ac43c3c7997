"""Reads the lines of a file, and refuses a line that is too long before it is in memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, AnyStr

from protos.errors import DataError

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
