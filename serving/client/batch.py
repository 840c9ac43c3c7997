"""A file of queries through one stream, and a file with a line of JSON for each answer.

    python -m serving.client batch queries.txt --output answers.jsonl

Queries are read as they are sent, a bounded number ahead of their answers, so neither file is ever in
memory. The file of answers appears when it is whole, or not at all.
"""

import contextlib
import dataclasses
import io
import json
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from protos import bundle
from protos.errors import DataError, InvalidInput
from serving.answer import Answer
from serving.client.blocking import RetrievalClient
from serving.client.queries import Format, format_of, read_queries
from serving.query import Query

IN_FLIGHT = 256  # queries that are read but not answered


@dataclasses.dataclass(frozen=True)
class Summary:
    """What has been answered: how many queries, in how many seconds."""

    queries: int
    seconds: float


def search_file(
    client: RetrievalClient,
    source: Path,
    output: Path,
    k: int = 0,
    exclude: Collection[str] = (),
    exclude_history: bool = False,
    form: Format | None = None,
    timeout: float | None = None,
    tick: Callable[[int], None] | None = None,
) -> Summary:
    """Answer each query of a file, in order.

    Args:
        client: that asks.
        source: of the queries.
        output: of the answers: `answer_document`, and the `line` that holds the query.
        k: as in `RetrievalClient.search`, and so are `exclude` and `exclude_history`.
        exclude: item ids that must not be in any answer.
        exclude_history: nor may the items of a query's own history.
        form: what the source holds; by default its name says so.
        timeout: seconds for the whole file; none by default.
        tick: called with the line that has been answered.

    Raises:
        DataError: a file cannot be read or written, or a line is no query or one that the server
            refuses; the text names file and line.
        the other errors of `RetrievalClient.search`.
    """
    began = time.monotonic()
    answered = 0
    with _opened(source) as asked, whole_file(output) as file, _Reader(asked, source, form) as reader:
        stream = client.search_stream(reader.queries(), k, exclude, timeout, exclude_history)
        with contextlib.closing(stream):  # type: ignore[type-var]
            try:
                for answer in stream:
                    line = reader.lines.get_nowait()
                    file.write(json.dumps({"line": line, **answer_document(answer)}, ensure_ascii=False))
                    file.write("\n")
                    answered += 1
                    if tick:
                        tick(line)
            except InvalidInput as error:
                if not error.field.startswith("query"):
                    raise
                raise DataError(f"{source}: line {reader.lines.get_nowait()}: {error}") from None
    return Summary(answered, time.monotonic() - began)


def answer_document(answer: Answer) -> dict[str, Any]:
    """An answer as JSON has it."""
    hits = [
        {"rank": rank, "id": hit.id, "score": hit.score, "fields": dict(hit.fields)}
        for rank, hit in enumerate(answer.hits, 1)
    ]
    return {
        "hits": hits,
        "basis": answer.basis,
        "unknown_history": answer.unknown_history,
        "bundle_version": answer.bundle_version,
        **answer.timing._asdict(),
    }


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that takes its place when the block has ended well: temporary file, fsync, rename.

    Raises:
        DataError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: expected a file, or nothing yet")
    try:
        with bundle.whole_file(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8")
            yield text
            text.detach()  # which writes what is left
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


class _Reader:
    """Reads on gRPC's thread, never more than `IN_FLIGHT` queries ahead of the answers.

    `lines` holds the lines that are asked but not answered; who takes an answer takes one from it.
    """

    def __init__(self, file: BinaryIO, path: Path, form: Format | None) -> None:
        self._found = read_queries(file, path, form or format_of(path))
        self._stopped = threading.Event()
        self.lines: queue.Queue[int] = queue.Queue(IN_FLIGHT)

    def queries(self) -> Iterator[Query]:
        for line, query in self._found:
            self.lines.put(line)
            if self._stopped.is_set():
                return
            yield query

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            self.lines.get_nowait()  # lets go of a reader that waits for room


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
