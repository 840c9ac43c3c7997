"""`items upsert | delete | get | changes`: write and read the live items of a service."""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from twinspire.protos.cli import Result, UsageError
from twinspire.protos.errors import WriteRefused
from twinspire.serving import flag_types as flags
from twinspire.serving.cli import tables
from twinspire.serving.cli.connection import Run, add_client_command
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.item_upload import BATCH, PATIENCE_SECONDS, upload
from twinspire.serving.client.items import MODES, ItemState
from twinspire.serving.client.rows import count_rows


def add_items(subparsers: Any) -> None:
    """Add `items` and its commands to a command line."""
    text = "Write, delete and read the items of a service that takes writes."
    parser = subparsers.add_parser("items", help=text, description=text, allow_abbrev=False)
    commands = parser.add_subparsers(dest="items_command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Run, seconds: float = 30.0) -> ArgumentParser:
        return add_client_command(commands, name, text, run, seconds)

    text = "Write the items of a table; each is found when this ends."
    upsert_parser = add("upsert", text, _upsert, PATIENCE_SECONDS)
    upsert_parser.add_argument("file", type=Path, metavar="FILE", help="table in CSV, TSV, JSONL or Parquet")
    upsert_parser.add_argument(
        "--mode",
        choices=[*MODES],
        default="upsert",
        help="insert: only items that do not exist; update: only those that do (%(default)s)",
    )
    upsert_parser.add_argument(
        "--batch", type=flags.count, default=0, help=f"items in one request ({BATCH}, or what is allowed)"
    )
    upsert_parser.add_argument(
        "--refused",
        type=flags.output_file,
        metavar="OUT",
        help="file for refused items, as JSON lines; written anew",
    )
    delete_parser = add("delete", "Withdraw items, also those that came with the bundle.", _delete)
    delete_parser.add_argument("ids", nargs="+", metavar="ID", help="ids of the items")
    get_parser = add("get", "Show items as they stand in the catalogue.", _get)
    get_parser.add_argument("ids", nargs="+", metavar="ID", help="ids of the items")
    changes_parser = add(
        "changes", "Print the changes after a sequence, one JSON document on each line.", _changes
    )
    changes_parser.add_argument(
        "--after", type=flags.bounded_count(2**63 - 1, least=0), default=0, help="sequence (%(default)s)"
    )
    changes_parser.add_argument(
        "--follow", action="store_true", help="go on with changes to come, until Ctrl-C"
    )


def state_document(state: ItemState) -> dict[str, Any]:
    """An item as JSON; `items upsert` reads such lines, too."""
    item = asdict(state.item)
    del item["expected_sequence"]
    return {**item, "sequence": state.sequence, "origin": state.origin, "written_at": state.written_at}


def _delete(arguments: Namespace, client: RetrievalClient) -> Result:
    written = client.delete(arguments.ids)
    document = {"written": len(written.results), "sequence": written.sequence}
    return document, lambda console: tables.show_pairs(console, document)


def _upsert(arguments: Namespace, client: RetrievalClient) -> Result:
    path, mode = arguments.file, arguments.mode
    if arguments.refused and arguments.refused.resolve() == path.resolve():
        raise UsageError("--refused: expected another file than the table")
    with tables.progress(mode, count_rows(path)) as tick:
        try:
            done = upload(client, path, mode, arguments.batch, tick, arguments.refused, arguments.timeout)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command sends all rows again") from None
    if first := done.first_refused:
        raise WriteRefused(
            f"{done.refused} of {done.rows} items were refused, {done.written} were written; "
            f"the first is {first.id!r}: {first.text}"
        )
    document = asdict(done)
    return document, lambda console: tables.show_pairs(console, document)


def _get(arguments: Namespace, client: RetrievalClient) -> Result:
    found = [state_document(each) for each in client.get(arguments.ids)]

    def show(console: Console) -> None:
        for each in found:
            tables.show_document(console, each)

    return {"items": found}, show


def _changes(arguments: Namespace, client: RetrievalClient) -> None:
    for page in client.changes(arguments.after, arguments.follow):
        for each in page.changes:
            document = {**state_document(each), "store_id": page.store_id}
            sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()
