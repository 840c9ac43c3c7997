"""The commands of a client, for `twinspire-serving` and `twinspire-client`: queries, items and events."""

import dataclasses
import hashlib
import json
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from twinspire.protos.cli import Result, UsageError
from twinspire.protos.errors import DataError, InvalidInput, WriteRefused
from twinspire.protos.filter_kinds import parse_value
from twinspire.serving import flag_types as flags
from twinspire.serving.cli import tables
from twinspire.serving.cli.connection import Run, add_client_command
from twinspire.serving.client.answer_files import answer_document
from twinspire.serving.client.batch import query_of, search_file
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.events import Event, Recorded, record_request
from twinspire.serving.client.item_upload import BATCH, PATIENCE_SECONDS, upload
from twinspire.serving.client.items import MODES, ItemState
from twinspire.serving.client.protocol import TIMEOUT_SECONDS, SearchArguments
from twinspire.serving.client.rows import (
    NumberedRow,
    Row,
    count_rows,
    in_parts,
    json_object,
    named_by_row,
    read_rows,
)
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import Query

EVENTS_BATCH = 1000  # events in one request
NAMES = {"user_id": "user"}  # other names of columns, as training has them by default
KINDS = {"value": "number", "time": "time", "position": "number"}  # of columns; the others are strings
FIELDS = {each.name for each in fields(Event)}


def add_commands(subparsers: Any) -> None:
    """Add `search`, `info`, `status`, `batch`, `items` and `events`."""

    def add(name: str, text: str, run: Run) -> ArgumentParser:
        return add_client_command(subparsers, name, text, run, TIMEOUT_SECONDS)

    search_parser = add("search", "Search for the items nearest to a query.", search)
    search_parser.add_argument("text", nargs="?", metavar="QUERY", help="text of the query")
    search_parser.add_argument("--item-id", help="search for items like this one")
    _add_query(search_parser)
    _add_hits(search_parser)
    add("info", "Show what a server serves, and its state.", info)
    add("status", "Show which bundles answer, and how aliases are followed.", status)
    text = "Search for each query of a file, over one stream."
    _add_batch(add_client_command(subparsers, "batch", text, batch))
    add_items(subparsers)
    add_events(subparsers)


def _add_hits(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--k", type=flags.count_or_none, default=0, help="number of items; 0 for the server's default"
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="ITEM",
        help="items to leave out of the answer",
    )
    parser.add_argument(
        "--exclude-history",
        action=BooleanOptionalAction,
        help="leave the items of the history out of the answer (default: as the bundle was evaluated)",
    )
    parser.add_argument(
        "--exclude-shown",
        type=flags.count_or_none,
        default=0,
        metavar="SECONDS",
        help="leave out the items that answers showed to the user in these last seconds",
    )
    parser.add_argument(
        "--filter",
        metavar="TEXT",
        help="only items that pass, such as \"price < 50 and section in ['admin', 'net']\"",
    )
    parser.add_argument(
        "--fusion",
        choices=[*FusionMode],
        default=FusionMode.DEFAULT,
        help="what ranks the items: dense (vectors), lexical (BM25) or hybrid (both); by default hybrid if "
        "the bundle has a lexical index, else dense",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="SCORE",
        help="leave out the hits with a lower score, so that there may be fewer than --k",
    )


def _add_query(parser: ArgumentParser) -> None:
    parser.add_argument("--user", metavar="KEY", help="put the events of this user before the history")
    parser.add_argument(
        "--history",
        nargs="+",
        action="extend",
        default=[],
        metavar="ITEM",
        help="item ids, oldest first; may be repeated",
    )
    parser.add_argument(
        "--query",
        metavar="JSON",
        help="the query as in a file of `batch`, such as "
        '\'{"features": {"country": "de"}}\'; TEXT, --user and --history stand beside it',
    )


def _add_batch(parser: ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="file of queries: a table (.jsonl, .ndjson, .csv, .tsv, .parquet) with any of the columns text, "
        "history, history_times, features, item_id and user, or a text on each line",
    )
    parser.add_argument(
        "--output",
        type=flags.output_file,
        required=True,
        metavar="OUT",
        help="file of answers: one JSON document on each line, or Parquet where the name ends in .parquet; "
        "it appears when it is complete",
    )
    _add_hits(parser)
    parser.add_argument(
        "--timeout",
        type=flags.bounded_seconds(86_400.0),
        metavar="SECONDS",
        help="timeout for the whole file (none)",
    )


def search(arguments: Namespace, client: RetrievalClient) -> Result:
    """Search for the items nearest to a query."""
    query = _query(arguments, arguments.text, arguments.item_id)
    answer = client.search(query, arguments.k, **_options(arguments))
    return answer_document(answer), lambda console: tables.show_answer(console, answer)


def info(arguments: Namespace, client: RetrievalClient) -> Result:
    """Show what a server serves."""
    found = client.info()
    document = dataclasses.asdict(found)
    shown = {name: value for name, value in document.items() if name != "manifest"}
    return document, lambda console: tables.show_document(console, shown)


def status(arguments: Namespace, client: RetrievalClient) -> Result:
    """Show which bundles answer, which candidate is being prepared, and the last error."""
    found = client.info()
    state = found.state
    following: dict[str, Any] = state["following"]
    document = {
        "name": found.name,
        "bundles": state["bundles"],
        "following": {**following, **tables.ages(following, time.time())} if following else None,
        **{key: state.get(key) or None for key in ("shadow", "catalogue", "served_log")},
        **{key: state[key] for key in ("workers", "workers_up", "restarts", "uptime_seconds")},
    }
    return document, lambda console: tables.show_document(console, document)


def batch(arguments: Namespace, client: RetrievalClient) -> Result:
    """Search for each query of a file, and write the answers to another file."""
    source, output = arguments.file, arguments.output
    if source.resolve() == output.resolve():
        raise UsageError("--output: is the file of queries itself")
    rows, started = count_rows(source, texts=True), time.monotonic()
    with tables.progress("batch", rows) as tick:
        k, timeout = arguments.k, arguments.timeout
        answered = search_file(client, source, output, k, timeout, tick, **_options(arguments))
    seconds = time.monotonic() - started
    document = {
        "output": str(output),
        "queries": answered,
        "seconds": round(seconds, 3),
        "queries_per_s": round(answered / seconds, 1),
    }
    return document, lambda console: tables.show_pairs(console, document)


def _query(arguments: Namespace, text: str | None, item_id: str | None = None) -> Query:
    """The query of the options of `_add_query`, with a text.

    Raises:
        UsageError: it is none.
    """
    given = {"text": text, "user": arguments.user, "history": arguments.history or None, "item_id": item_id}
    try:
        base = json_object(arguments.query or "{}")
        return query_of({**base, **{name: value for name, value in given.items() if value is not None}})
    except (TypeError, ValueError, InvalidInput) as error:
        raise UsageError(f"--query: {error}") from None


def _options(arguments: Namespace) -> SearchArguments:
    """The options of `_add_hits`."""
    return {
        "exclude": arguments.exclude,
        "exclude_history": arguments.exclude_history,
        "exclude_shown": arguments.exclude_shown,
        "filter": arguments.filter,
        "fusion": FusionMode(arguments.fusion),
        "min_score": arguments.min_score,
    }


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
        for part in in_parts(read_rows(path), EVENTS_BATCH):
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
