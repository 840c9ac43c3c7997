"""`events record`: send a table of events to a service."""

import hashlib
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from twinspire.protos.cli import Result
from twinspire.protos.errors import DataError, InvalidInput
from twinspire.protos.filter_kinds import parse_value
from twinspire.serving.cli import tables
from twinspire.serving.cli.connection import add_client_command
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.events import Event, Recorded, record_request
from twinspire.serving.client.item_upload import PATIENCE_SECONDS
from twinspire.serving.client.rows import NumberedRow, Row, count_rows, in_parts, named_by_row, read_rows

BATCH = 1000  # events in one request
NAMES = {"user_id": "user"}  # other names of columns, as training has them by default
KINDS = {"value": "number", "time": "time", "position": "number"}  # of columns; the others are strings
FIELDS = {each.name for each in fields(Event)}


def add_events(subparsers: Any) -> None:
    """Add `events record` to a command line."""
    text = "Record events of users in a service that takes them."
    parser = subparsers.add_parser("events", help=text, description=text, allow_abbrev=False)
    commands = parser.add_subparsers(dest="events_command", required=True, metavar="COMMAND")
    text = "Record a table of events. Repeated within a day with the same table, it stores nothing twice."
    recording = add_client_command(
        commands, "record", text, lambda arguments, client: record_file(client, arguments.file)
    )
    columns = ", ".join(("user_id", *sorted(FIELDS - {"user"})))
    text = f"table in CSV, TSV, JSONL or Parquet, with any of the columns {columns}; type is click by default"
    recording.add_argument("file", type=Path, metavar="FILE", help=text)


def record_file(client: RetrievalClient, path: Path) -> Result:
    """Record the events of a table.

    Raises:
        DataError: the table cannot be read, or a row is no event; the text names it. The rows before its
            batch are stored.
        As `RetrievalClient.record`.
    """
    started = time.monotonic()
    rows = repeated = 0
    with tables.progress("record", count_rows(path)) as tick:
        for part in in_parts(read_rows(path), BATCH):
            done = _send(client, path, part)
            rows += done.stored
            repeated += done.stored if done.repeated else 0
            tick(rows)
    document = {"events": rows, "stored_before": repeated, "seconds": round(time.monotonic() - started, 3)}
    return document, lambda console: tables.show_pairs(console, document)


def _send(client: RetrievalClient, path: Path, part: list[NumberedRow]) -> Recorded:
    """Send one batch, with an id that follows from its rows and their place in the table.

    Raises:
        DataError: a row is no event; the text names it.
    """
    events = [_event(row, f"{path}: row {number}") for number, row in part]
    try:
        content = record_request(events, "-").SerializeToString(deterministic=True)
        digest = hashlib.blake2b(content, digest_size=16, salt=str(part[0][0]).encode()).hexdigest()
        return client.record(events, digest, PATIENCE_SECONDS)
    except InvalidInput as error:
        raise named_by_row(error, path, part, "events") from None


def _event(row: Row, name: str) -> Event:
    """The event of a row, whose columns have the names of its fields."""
    values: dict[str, Any] = {}
    for column, cell in row.items():
        field_name = NAMES.get(column, column)
        if field_name not in FIELDS or field_name in values:
            expected = ", ".join(("user_id", *sorted(FIELDS)))
            raise DataError(f"{name}: column {column!r}: expected once each of {expected}")
        try:
            value: Any = parse_value(KINDS.get(field_name, "string"), cell, column)
        except InvalidInput as error:
            raise DataError(f"{name}: column {column!r}: {error.reason}") from None
        if value is not None:
            values[field_name] = value / 1e6 if field_name == "time" else value
    if "position" in values:
        if values["position"] % 1:
            raise DataError(f"{name}: column 'position': expected a whole number, got {values['position']}")
        values["position"] = int(values["position"])
    for required in ("user", "item_id"):
        if required not in values:
            raise DataError(f"{name}: {required}: required, but missing or blank")
    return Event(**values)
