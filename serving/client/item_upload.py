"""Sends a table of items in batches.

An upload that was interrupted is repeated as a whole. Items are then written again, also over newer versions
of other writers, unless the rows have expected sequences; the file of refused items is written anew.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from twinspire.protos.errors import DataError, InvalidInput, TwinspireError
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.item_files import ItemFileColumns, Row, id_of, read_rows
from twinspire.serving.client.items import ItemResult, Mode, Written

BATCH = 500  # items
BATCH_BYTES = 1 << 20  # approximate bytes of a batch; a service accepts 4 MiB by default
PATIENCE_SECONDS = 60.0  # for which a batch is sent again while the service is not available
KEPT = 20  # most refused items that a summary names

Action = Mode | Literal["delete"]


@dataclass
class Upload:
    """What an upload has done.

    Args:
        rows: of the table that are done.
        written: items that were written or deleted.
        refused: items that were refused.
        first_refused: the first refused items, as `ItemResult._asdict` gives them.
        sequence: of the last write, 0 if there was none.
        ignored: columns that nothing reads.
        seconds: that it took.
    """

    rows: int = 0
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
            "written": self.written,
            "refused": self.refused,
            "first_refused": self.first_refused,
            "ignored_columns": self.ignored,
            "sequence": self.sequence,
            "seconds": round(self.seconds, 3),
            "items_per_s": round(self.rows / max(self.seconds, 1e-9), 1),
        }


def upload(
    client: RetrievalClient,
    path: Path,
    action: Action = "upsert",
    batch: int = 0,
    tick: Callable[[int], None] = lambda rows: None,
    refused: Path | None = None,
    patience: float = PATIENCE_SECONDS,
) -> Upload:
    """Write or delete the items of a table.

    Args:
        action: a mode of `RetrievalClient.upsert`, or "delete", which reads ids and expected sequences only.
        batch: items in one request; 0 for the usual number, or fewer if the service takes no more.
        tick: called with the number of rows that are done.
        refused: file for the refused items, a line of JSON for each; it is written anew.
        patience: seconds for which a batch is sent again while the service is not available.

    Raises:
        DataError: the table cannot be read, or the service refuses a row; the text names it. The rows before
            its batch are written.
        As `RetrievalClient.upsert`.
    """
    started = time.monotonic()
    served = client.info()
    columns = ItemFileColumns.of(path, served)
    most = served.state.get("catalogue", {}).get("bounds", {}).get("max_batch") or BATCH
    size = batch or min(BATCH, most)
    done = Upload()
    tick(done.rows)
    with _refused_file(refused) as write_refused:
        for part in _parts(enumerate(read_rows(path), 1), size):
            written = _send(client, columns, part, action, patience)
            write_refused(done.add(written))
            tick(done.rows)
    done.ignored = sorted(columns.ignored)
    done.seconds = time.monotonic() - started
    return done


def count_rows(path: Path) -> int:
    """The rows of a table; reads it once.

    Raises:
        DataError: it cannot be read.
    """
    return sum(1 for _ in read_rows(path))


@contextmanager
def _refused_file(path: Path | None) -> Iterator[Callable[[Sequence[ItemResult]], None]]:
    """The file of refused items, which is written anew; yields the function that adds a line for each item.

    Without a path the function does nothing.

    Raises:
        DataError: the file cannot be written, now or later.
    """
    if path is None:
        yield lambda refused: None
        return
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: expected a file, or nothing yet")

    def write(refused: Sequence[ItemResult]) -> None:
        file.writelines(json.dumps(each._asdict(), ensure_ascii=False) + "\n" for each in refused)
        file.flush()

    try:
        with path.open("w", encoding="utf-8") as file:
            yield write
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from None


def _parts(rows: Iterable[tuple[int, Row]], size: int) -> Iterator[list[tuple[int, Row]]]:
    """Batches of numbered rows: at most `size` and about `BATCH_BYTES`, and no id stands in one twice."""
    part: list[tuple[int, Row]] = []
    ids: set[str] = set()
    taken = 0
    for number, row in rows:
        item_id = id_of(row)
        if len(part) >= size or taken >= BATCH_BYTES or item_id in ids:
            yield part
            part, ids, taken = [], set(), 0
        part.append((number, row))
        ids.add(item_id)
        taken += sum(len(str(cell).encode(errors="replace")) for cell in row.values())
    if part:
        yield part


def _send(
    client: RetrievalClient,
    columns: ItemFileColumns,
    part: Sequence[tuple[int, Row]],
    action: Action,
    patience: float,
) -> Written:
    """Send one batch; the client repeats it, with the same request id, for up to `patience` seconds."""
    first = part[0][0]
    items = [columns.item(row, number, reads_values=action != "delete") for number, row in part]
    try:
        if action == "delete":
            expected = {
                each.id: each.expected_sequence for each in items if each.expected_sequence is not None
            }
            ids = [each.id for each in items]
            return client.delete(ids, expected=expected, timeout=patience, strict=False)
        return client.upsert(items, action, timeout=patience, strict=False)
    except InvalidInput as error:
        raise named_by_row(error, columns.path, first, "items") from None


def named_by_row(error: InvalidInput, path: Path, first: int, batch: str) -> TwinspireError:
    """The error with the row of the table in place of the place in the batch.

    Args:
        first: row of the first element of the batch.
        batch: the field of the request that holds it.
    """
    head, bracket, rest = error.field.partition(f"{batch}[")
    place, closing, field_name = rest.partition("]")
    if head or not bracket or not closing or not place.isdecimal():
        return error
    return DataError(f"{path}: row {first + int(place)}: {field_name.lstrip('.')}: {error.reason}")
