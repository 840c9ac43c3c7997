"""The commands that query a server, for `twinspire-serving` and `twinspire-client`."""

import dataclasses
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import Any

from twinspire.protos.cli import Result, UsageError
from twinspire.protos.errors import InvalidInput
from twinspire.serving import flag_types as flags
from twinspire.serving.cli import tables
from twinspire.serving.cli.connection import Run, add_client_command
from twinspire.serving.cli.event_commands import add_events
from twinspire.serving.cli.item_commands import add_items
from twinspire.serving.client.answer_files import answer_document
from twinspire.serving.client.batch import query_of, search_file
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.protocol import TIMEOUT_SECONDS, SearchArguments
from twinspire.serving.client.rows import count_rows, json_object
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import Query


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
