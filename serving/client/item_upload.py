"""Sends a table of items in batches, with progress, and goes on after an interruption.

Until all rows are done, a file beside the table has their number. The request id of a batch follows from that
file and from the content of the batch. So the batch in which an upload was interrupted can be sent again, and
the service does not take another batch for it.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from protos.bundle import write_file
from protos.documents import parse_json
from protos.errors import DataError, InvalidInput, TwinspireError
from serving.client.blocking import RetrievalClient
from serving.client.item_files import ItemFileColumns, Row, id_of, read_rows
from serving.client.items import Item, ItemResult, Mode, Written

SUFFIX = ".progress"
BATCH = 500  # items
BATCH_BYTES = 1 << 20  # approximate bytes of a batch; a service accepts 4 MiB by default
PATIENCE_SECONDS = 60.0  # for which a batch is sent again while the service is not available
KEPT = 20  # most refused items that a summary names

Operation = Literal["upsert", "delete"]


@dataclass
class Upload:
    """What an upload has done; earlier runs that were interrupted are included where nothing else is said.

    Args:
        rows: of the table that are done.
        resumed: rows that earlier runs have done.
        written: items that were written or deleted.
        refused: items that were refused.
        first_refused: the first refused items, as `ItemResult._asdict` gives them.
        sequence: of the last write, 0 if there was none.
        ignored: columns that nothing reads, as far as this run has read them.
        seconds: that this run took.
    """

    rows: int = 0
    resumed: int = 0
    written: int = 0
    refused: int = 0
    first_refused: list[dict[str, Any]] = field(default_factory=list)
    sequence: int = 0
    ignored: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, written: Written) -> list[ItemResult]:
        """Count the answer to a batch; returns the refused items."""
        refused = [each for each in written.results if each.refusal is not None]
        self.rows += len(written.results)
        self.refused += len(refused)
        self.written += len(written.results) - len(refused)
        self.first_refused += [each._asdict() for each in refused[: KEPT - len(self.first_refused)]]
        self.sequence = max(self.sequence, written.sequence)
        return refused

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rows": self.rows,
            "resumed": self.resumed,
            "written": self.written,
            "refused": self.refused,
            "first_refused": self.first_refused,
            "ignored_columns": self.ignored,
            "sequence": self.sequence,
            "seconds": round(self.seconds, 3),
            "items_per_s": round((self.rows - self.resumed) / max(self.seconds, 1e-9), 1),
        }


def upload(
    client: RetrievalClient,
    path: Path,
    operation: Operation,
    mode: Mode = "upsert",
    batch: int = 0,
    restart: bool = False,
    tick: Callable[[int], None] = lambda rows: None,
    refused: Path | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Upload:
    """Write or delete the items of a table.

    Args:
        operation: `upsert` or `delete`; a delete reads ids and expected sequences only.
        mode: as of `RetrievalClient.upsert`.
        batch: items in one request; 0 for the usual number, or fewer if the service takes no more.
        restart: begin with the first row, even if an earlier run was interrupted.
        tick: called with the number of rows that are done.
        refused: file for the refused items, a line of JSON for each. It is written anew, unless this run goes
            on with an earlier one; each item stands in it once, whatever was interrupted.
        patience: seconds for which a batch is sent again while the service is not available.

    Raises:
        DataError: the table cannot be read, or the service refuses a row; the text names it. The rows before
            its batch are written, and a run on the same file goes on after them.
        As `RetrievalClient.upsert`.
    """
    started = time.monotonic()
    served = client.info()
    columns = ItemFileColumns.of(path, served)
    most = served.state.get("catalogue", {}).get("bounds", {}).get("max_batch") or BATCH
    size = batch or min(BATCH, most)
    progress = _Progress.open(path, f"{operation} {mode}", restart)
    done = progress.done
    tick(done.rows)
    rows = itertools.islice(enumerate(read_rows(path), 1), done.rows, None)
    first = min(progress.batch or size, most)  # if this batch was sent already, it must hold the same items
    with _RefusedFile(refused, progress.refused_bytes(refused)) as file:
        progress.save(first, file)  # so that a next run cuts the first batch in the same way
        for part in _parts(rows, first, size):
            written = _send(client, columns, part, operation, mode, progress.run, patience)
            file.add(done.add(written))
            progress.save(size, file)
            tick(done.rows)
    progress.remove()
    done.ignored = sorted(columns.ignored)
    done.seconds = time.monotonic() - started
    return done


def count_rows(path: Path) -> int:
    """The rows of a table; reads it once.

    Raises:
        DataError: it cannot be read.
    """
    return sum(1 for _ in read_rows(path))


class _Progress:
    """The file beside a table that holds the progress of its upload.

    Args:
        document: its content.

    Attributes:
        run: id of the upload; stays the same when it goes on after an interruption.
        batch: items in a batch of the interrupted run; 0 if there was none.
        done: the progress.

    Raises:
        ValueError, KeyError, TypeError: the document is not one that `save` writes.
    """

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self._path, self._document = path, document
        self.run: str = document["run"]
        self.batch: int = document["batch"]
        self.done = Upload(**document["done"])
        self.done.resumed = self.done.rows
        numbers = (self.batch, self.done.rows, self.done.written, self.done.refused, self.done.sequence)
        if not all(isinstance(each, int) and each >= 0 for each in numbers):
            raise ValueError("expected whole numbers")

    @classmethod
    def open(cls, table: Path, operation: str, restart: bool) -> "_Progress":
        """The progress of an interrupted run of this operation on this content, or that of a new run."""
        path = table.with_name(table.name + SUFFIX)
        begun = {"version": 1, "sha256": _digest(table), "operation": operation}
        if not restart and path.exists():
            try:
                found = parse_json(path.read_bytes())
                if begun.items() <= found.items():
                    return cls(path, found)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                pass  # it is damaged, or of another program
        new = {"run": str(uuid.uuid4()), "batch": 0, "done": {}, "refused_file": "", "refused_bytes": 0}
        return cls(path, {**begun, **new})

    def refused_bytes(self, path: Path | None) -> int:
        """The bytes of a file of refused items that belong to the rows that are done."""
        is_same = path is not None and self._document["refused_file"] == str(path.absolute())
        return int(self._document["refused_bytes"]) if is_same else 0

    def save(self, batch: int, refused: "_RefusedFile") -> None:
        """Save the progress.

        Args:
            batch: items in a batch of this run.
            refused: file of refused items, which is flushed.

        Raises:
            DataError: it cannot be written.
        """
        self._document |= {
            "batch": batch,
            "done": dataclasses.asdict(self.done),
            "refused_file": refused.name,
            "refused_bytes": refused.flush(),
        }
        try:
            write_file(self._path, json.dumps(self._document).encode())
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error.strerror}") from None

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


class _RefusedFile:
    """The file of refused items; without a path there is none.

    Args:
        size: bytes of it that are kept.

    Raises:
        DataError: it cannot be written, now or later.
    """

    def __init__(self, path: Path | None, size: int) -> None:
        self._path = path
        self._lines: list[str] = []
        self.name = str(path.absolute()) if path is not None else ""
        if path is None:
            return
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: expected a file, or nothing yet")
        try:
            self._file = path.open("ab")
            self._file.truncate(min(size, self._file.tell()))
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}") from None

    def add(self, refused: Sequence[ItemResult]) -> None:
        """Take refused items; `flush` writes them."""
        self._lines += [json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in refused]

    def flush(self) -> int:
        """Write the items that `add` has taken to the file; returns its size in bytes."""
        lines, self._lines = self._lines, []
        if self._path is None:
            return 0
        try:
            self._file.write("".join(lines).encode())
            self._file.flush()
            return self._file.tell()
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> "_RefusedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None:
            with suppress(OSError):  # closing flushes again what `flush` has failed to write
                self._file.close()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _parts(rows: Iterator[tuple[int, Row]], first: int, size: int) -> Iterator[list[tuple[int, Row]]]:
    """Batches of at most `size` rows and about `BATCH_BYTES`, in which no id stands twice.

    Args:
        rows: numbered.
        first: rows of the first batch, at most.
        size: rows of the others, at most.
    """
    most = first
    part: list[tuple[int, Row]] = []
    ids: set[str] = set()
    taken = 0
    for number, row in rows:
        item_id = id_of(row)
        if len(part) >= most or taken >= BATCH_BYTES or item_id in ids:
            yield part
            part, ids, taken, most = [], set(), 0, size
        part.append((number, row))
        ids.add(item_id)
        taken += sum(len(str(cell).encode(errors="replace")) for cell in row.values())
    if part:
        yield part


def _send(
    client: RetrievalClient,
    columns: ItemFileColumns,
    part: Sequence[tuple[int, Row]],
    operation: Operation,
    mode: Mode,
    run: str,
    patience: float,
) -> Written:
    """Send one batch; the client repeats it, with the same request id, for up to `patience` seconds."""
    first = part[0][0]
    if operation == "upsert":
        items = [columns.item(row, number) for number, row in part]
    else:
        items = [
            Item(columns.item_id(row, number), expected_sequence=columns.expected(row, number))
            for number, row in part
        ]
    request_id = _request_id(run, first, items)
    try:
        if operation == "upsert":
            return client.upsert(items, mode, request_id, patience, strict=False)
        expected = {each.id: each.expected_sequence for each in items if each.expected_sequence is not None}
        return client.delete([each.id for each in items], request_id, expected, patience, strict=False)
    except InvalidInput as error:
        raise _named(error, columns.path, first) from None


def _request_id(run: str, first: int, items: Sequence[Item]) -> str:
    """The request id of a batch: the same for the same items of one upload, and different for all others.

    Args:
        run: id of the upload; another upload of the same table has other request ids.
        first: number of the batch's first row.
    """
    content = json.dumps([dataclasses.asdict(each) for each in items], sort_keys=True).encode()
    return f"{run}-{first}-{hashlib.blake2b(content, digest_size=16).hexdigest()}"


def _named(error: InvalidInput, path: Path, first: int) -> TwinspireError:
    """The error with the row of the table in place of the place in the batch."""
    head, bracket, rest = error.field.partition("items[")
    place, closing, field_name = rest.partition("]")
    if head or not bracket or not closing or not place.isdecimal():
        return error
    return DataError(f"{path}: row {first + int(place)}: {field_name.lstrip('.')}: {error.reason}")
