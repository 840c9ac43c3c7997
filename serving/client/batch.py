"""Sends a file of queries through one stream, and writes each answer to another file.

    python -m twinspire.serving.client batch queries.txt --output answers.jsonl    # or answers.parquet

gRPC reads the queries as far ahead of the answers as the service takes them, so the client holds neither file
in memory. It writes the answers to a temporary file and renames that file when it is complete.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Unpack

from twinspire.protos.errors import DataError, InvalidInput
from twinspire.serving.client.answer_files import answer_document, answer_file
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.protocol import SearchArguments
from twinspire.serving.client.rows import Row, read_rows
from twinspire.serving.retrieval.query import Query

COLUMNS = {"text": str, "history": list, "features": dict, "item_id": str, "history_times": list, "user": str}


def search_file(
    client: RetrievalClient,
    source: Path,
    output: Path,
    k: int = 0,
    timeout: float | None = None,
    tick: Callable[[int], None] = lambda rows: None,
    **options: Unpack[SearchArguments],
) -> int:
    """Answer each query of a file, in order; returns their number.

    Args:
        client: sends the queries.
        source: file of queries: a table with the fields of `Query`, by its name, or a text on each line.
        output: file of answers, JSON lines or Parquet by its name: `answer_document`, and the `line` of the
            query, in a table its row.
        k: as in `RetrievalClient.search`, and so are the `options`.
        timeout: seconds for the whole file; none by default.
        tick: called with the number of answers.

    Raises:
        DataError: a file cannot be read or written, or a row is not a query, or the server refuses it; the
            text names file and row.
        The other errors of `RetrievalClient.search`.
    """
    sent: deque[int] = deque()  # rows that are not answered yet

    def queries() -> Iterator[Query]:
        for number, row in read_rows(source, texts=True):
            try:
                query = query_of(row)
            except (TypeError, ValueError, InvalidInput) as error:
                raise DataError(f"{source}: row {number}: {error}") from None
            sent.append(number)
            yield query

    answered = 0
    with answer_file(output) as write:
        stream = client.search_stream(queries(), k, timeout=timeout, **options)
        with contextlib.closing(stream):  # type: ignore[type-var]
            try:
                for answered, answer in enumerate(stream, 1):
                    write({"line": sent.popleft(), **answer_document(answer)})
                    tick(answered)
            except InvalidInput as error:
                if not error.field.startswith(("query", "features")):
                    raise
                raise DataError(f"{source}: row {sent[0]}: {error}") from None
    return answered


def query_of(row: Row) -> Query:
    """The query of a row: its columns are the fields of `Query`, and a time that is not known is None.

    Raises:
        TypeError, ValueError, InvalidInput: it is none.
    """
    given: dict[str, Any] = {name: value for name, value in row.items() if value is not None}
    for name, value in given.items():
        if name not in COLUMNS:
            raise ValueError(f"{name}: unknown column; a query has {', '.join(COLUMNS)}")
        if not isinstance(value, COLUMNS[name]):
            raise TypeError(f"{name}: expected a {COLUMNS[name].__name__}, got {value!r:.80}")
    for name, value in given.get("features", {}).items():
        if isinstance(value, bool) or not isinstance(value, str | int | float | list):
            raise TypeError(f"features.{name}: expected a string, a number or a list, got {value!r:.80}")
    times = [math.nan if each is None else each for each in given.pop("history_times", ())]
    if wrong := [each for each in times if isinstance(each, bool) or not isinstance(each, int | float)]:
        raise TypeError(f"history_times: expected seconds since 1970, got {wrong[0]!r:.80}")
    return Query(**given, history_times=tuple(times))
