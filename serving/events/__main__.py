"""Deletion of users, and export, from the store of events, for use outside the service.

    python -m twinspire.serving.events delete u7 u8 --events sqlite:///events.db
    python -m twinspire.serving.events delete - < users.txt
    python -m twinspire.serving.events delete u7 --served-log FOLDER
    python -m twinspire.serving.events export events.parquet

`delete` removes each event of the users. SQLite overwrites the rows, and empties its log unless another
process reads it at that moment ("log_emptied": false; then repeat the command). PostgreSQL frees their room
at the next VACUUM. Copies of the database stay as they are. `export` writes the events of one moment, in the
order in which they arrived, in the columns that `[data] kind = "events"` of an experiment reads by default.
"""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from twinspire.protos.bundle import whole_file
from twinspire.protos.cli import CommandParser
from twinspire.protos.entry_points import EVENTS_VARIABLE
from twinspire.protos.errors import InvalidInput, MissingStage, TwinspireError
from twinspire.serving.events.config import default_url
from twinspire.serving.events.store import EventStore
from twinspire.serving.live.store.database import EVENTS, operator_errors
from twinspire.serving.served_log.config import LOCK
from twinspire.serving.wire.converters import LONGEST_USER, check_bytes

EVENTS_HELP = f"of the store (default: ${EVENTS_VARIABLE}, or serve's)"


def export(store: EventStore, output: Path) -> int:
    """Write all events to a file of Parquet, atomically; returns their number.

    Raises:
        MissingStage: pyarrow is not installed.
        Unavailable: the store cannot be read now.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise MissingStage("writing Parquet needs pyarrow; install it with: pip install pyarrow") from None
    text, number = pa.string(), pa.float64()
    types = {"user_id": text, "time": number, "recorded": pa.timestamp("ns", "UTC"), "item_id": text}
    types |= {"type": text, "value": number, "request_id": text, "position": pa.int64()}
    schema, count = pa.schema(types), 0
    with whole_file(output) as file, pq.ParquetWriter(file, schema) as writer, store.all() as parts:
        for part in parts:
            columns = zip(zip(*part, strict=True), schema.types, strict=True)
            arrays = [pa.array(values, kind) for values, kind in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += len(part)
    return count


def _parser() -> ArgumentParser:
    parser = CommandParser(prog="python -m twinspire.serving.events", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    deleting = commands.add_parser("delete", help="delete all events of users")
    deleting.add_argument("users", nargs="+", metavar="USER", help="keys of users; - for lines of stdin")
    deleting.add_argument(
        "--served-log", type=Path, metavar="FOLDER", help="delete their rows from this served log, too"
    )
    exporting = commands.add_parser("export", help="write all events to a file of Parquet")
    exporting.add_argument("output", type=Path, help="the file")
    for each in (deleting, exporting):
        each.add_argument("--events", default="", metavar="URL", help=EVENTS_HELP)
    return parser


def _users(given: Sequence[str]) -> list[str]:
    """The keys of users, with the lines of standard input in place of "-"; blank ones are skipped.

    Raises:
        InvalidInput: one is no key; the error names its place.
    """
    lines = sys.stdin.buffer.read().split(b"\n") if "-" in given else []
    keys = [(f"USER {n}", os.fsencode(key)) for n, key in enumerate(given, 1) if key != "-"]
    keys += [(f"line {n} of standard input", line) for n, line in enumerate(lines, 1) if line]
    users = []
    for name, key in keys:
        try:
            users.append(key.decode())
        except UnicodeDecodeError:
            raise InvalidInput(name, "expected UTF-8") from None
        check_bytes(users[-1], 1, LONGEST_USER, name)
        if key.endswith(b"\r"):  # it would delete nothing
            raise InvalidInput(name, "expected lines that end with LF alone, got CR and LF")
    return users


def _served_log(root: Path) -> Any:
    """The folder of a served log.

    Raises:
        MissingStage: pyarrow is not installed.
        InvalidInput: it is no such folder.
    """
    try:
        from twinspire.serving.served_log.log_folder import LogFolder
    except ModuleNotFoundError:
        raise MissingStage("a served log needs pyarrow; install it with: pip install pyarrow") from None
    if not (root / LOCK).exists():
        raise InvalidInput("--served-log", f"{root}: no service has written its log there")
    return LogFolder(root)


def _run(arguments: Namespace) -> dict[str, Any]:
    users, folder = [], None
    if arguments.command == "delete":
        users = _users(arguments.users)
        folder = _served_log(arguments.served_log) if arguments.served_log else None
    url = arguments.events or os.environ.get(EVENTS_VARIABLE) or default_url()
    with operator_errors(url, EVENTS):
        opened = EventStore.open(url, create=False)
    with closing(opened) as store:
        if arguments.command == "export":
            return {"output": str(arguments.output), "events": export(store, arguments.output)}
        deleted = sum(map(store.delete_user, users))
        found = {"users": len(users), "events_deleted": deleted, "log_emptied": store.shorten_log()}
        if folder is not None:
            found["answers_deleted"] = sum(map(folder.delete_user, users))
        return found


def main() -> None:
    """Run one command, and print its result as JSON."""
    try:
        found = _run(_parser().parse_args())
    except (TwinspireError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
