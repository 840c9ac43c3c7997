"""Sends a file of queries through one stream, and writes each answer to another file.

    python -m twinspire.serving.client batch queries.txt --output answers.jsonl    # or answers.parquet

The client reads a query when it sends it, and keeps a bounded number of queries in flight, so it holds
neither file in memory. It writes the answers to a temporary file and renames that file when it is complete.
"""

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Unpack

from twinspire.protos.errors import DataError, InvalidInput
from twinspire.serving.client.answer_files import answer_document, answer_file
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.protocol import SearchArguments
from twinspire.serving.client.queries import Format, format_of, read_queries
from twinspire.serving.retrieval.query import Query

IN_FLIGHT = 256  # most queries that are read and not yet answered


@dataclasses.dataclass(frozen=True)
class Summary:
    """Number of answered queries, and seconds for all of them."""

    queries: int
    seconds: float


def search_file(
    client: RetrievalClient,
    source: Path,
    output: Path,
    k: int = 0,
    form: Format | None = None,
    timeout: float | None = None,
    tick: Callable[[int], None] | None = None,
    **options: Unpack[SearchArguments],
) -> Summary:
    """Answer each query of a file, in order.

    Args:
        client: sends the queries.
        source: file of queries.
        output: file of answers, JSON lines or Parquet by its name: `answer_document`, and the `line` of the
            query.
        k: as in `RetrievalClient.search`, and so are the `options`.
        form: format of the source; by default it follows from the name.
        timeout: seconds for the whole file; none by default.
        tick: called with the number of each answered line.

    Raises:
        DataError: a file cannot be read or written, or a line is not a query, or the server refuses it; the
            text names file and line.
        The other errors of `RetrievalClient.search`.
    """
    began = time.monotonic()
    answered = 0
    with _opened(source) as queries, answer_file(output) as write, _Reader(queries, source, form) as reader:
        stream = client.search_stream(reader.queries(), k, timeout=timeout, **options)
        with contextlib.closing(stream):  # type: ignore[type-var]
            try:
                for answer in stream:
                    line = reader.lines.get_nowait()
                    write({"line": line, **answer_document(answer)})
                    answered += 1
                    if tick:
                        tick(line)
            except InvalidInput as error:
                if not error.field.startswith("query"):
                    raise
                raise DataError(f"{source}: line {reader.lines.get_nowait()}: {error}") from None
    return Summary(answered, time.monotonic() - began)


class _Reader:
    """Reads queries on gRPC's thread, at most `IN_FLIGHT` queries ahead of the answers.

    Args:
        path: of the file, for errors.
        form: of the file; by default it follows from the name.

    Attributes:
        lines: numbers of the lines that are sent and not yet answered, in order; take one for each answer.
    """

    def __init__(self, file: BinaryIO, path: Path, form: Format | None) -> None:
        self._found = read_queries(file, path, form or format_of(path))
        self._stopped = threading.Event()
        self.lines: queue.Queue[int] = queue.Queue(IN_FLIGHT)

    def queries(self) -> Iterator[Query]:
        for line, query in self._found:
            self.lines.put(line)  # blocks while `IN_FLIGHT` lines are not answered
            if self._stopped.is_set():
                return
            yield query

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            self.lines.get_nowait()  # unblocks a reader that waits for room


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
