"""The commands that query a server, for `twinspire-serving` and `twinspire-client`."""

import dataclasses
import logging
import os
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace, _ArgumentGroup
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from twinspire.protos.cli import Result, UsageError, add_command
from twinspire.protos.errors import DataError, InvalidInput, TwinspireError
from twinspire.serving import flag_types as flags
from twinspire.serving.cli import tables
from twinspire.serving.cli.advice import TOKEN, advice_on
from twinspire.serving.cli.event_commands import add_events
from twinspire.serving.cli.item_commands import add_items
from twinspire.serving.client.answer_files import answer_document, check_answer_file
from twinspire.serving.client.batch import search_file
from twinspire.serving.client.blocking import RetrievalClient
from twinspire.serving.client.protocol import TIMEOUT_SECONDS, SearchArguments
from twinspire.serving.client.queries import count_lines
from twinspire.serving.client.security import Security, read_token
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import Query, Value
from twinspire.serving.wire.converters import Info

ADDRESS = "127.0.0.1:50051"


def add_commands(subparsers: Any) -> None:
    """Add `search`, `encode`, `score`, `info`, `status`, `batch`, `items` and `events`."""

    def add(name: str, text: str, run: Callable[[Namespace], Result]) -> ArgumentParser:
        parser = add_command(subparsers, name, text, run)
        add_server(parser)
        return parser

    search_parser = add("search", "Search for the items nearest to a query.", search)
    search_parser.add_argument("text", nargs="?", metavar="QUERY", help="text of the query")
    search_parser.add_argument("--item-id", help="search for items like this one")
    search_parser.add_argument(
        "--min-sequence",
        type=flags.sequence,
        default=0,
        help="wait until the server searches with this write of the catalogue",
    )
    encode_parser = add("encode", "Compute the vectors of queries.", encode)
    encode_parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="text of a query; several are allowed"
    )
    score_parser = add("score", "Compute the scores of given items for a query.", score)
    score_parser.add_argument("text", nargs="?", metavar="QUERY", help="text of the query")
    score_parser.add_argument(
        "--items", nargs="+", action="extend", required=True, metavar="ITEM", help="ids of the items to score"
    )
    for each in (search_parser, encode_parser, score_parser):
        _add_features(each)
    _add_hits(search_parser)
    info_parser = add("info", "Show what a server serves, and its state.", info)
    status_parser = add("status", "Show which bundles answer, and how aliases are followed.", status)
    for each in (search_parser, encode_parser, score_parser, info_parser, status_parser):
        each.add_argument(
            "--timeout",
            type=flags.seconds,
            default=TIMEOUT_SECONDS,
            metavar="SECONDS",
            help="timeout of a call (%(default)s)",
        )
    _add_batch(add("batch", "Search for each query of a file, over one stream.", batch))
    add_items(subparsers, add_server, connect)
    add_events(subparsers, add_server, connect)


def add_server(parser: ArgumentParser) -> None:
    """Add the server's address and the options of the connection, which `connect` reads."""
    parser.add_argument("--address", default=ADDRESS, help="address of the server (%(default)s)")
    group = parser.add_argument_group(
        "security", "The token may also come from the environment, as TWINSPIRE_TOKEN."
    )
    add_security(group)
    group.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token to send")


def add_security(group: _ArgumentGroup) -> None:
    """Add the options that protect a connection."""
    add = group.add_argument
    add("--tls", action="store_true", help="use TLS; --ca and --certificate imply it")
    add("--ca", type=Path, metavar="PEM", help="authorities of the server's certificate (gRPC's own list)")
    add("--certificate", type=Path, metavar="PEM", help="certificate of this client, for mutual TLS")
    add("--key", type=Path, metavar="PEM", help="key of that certificate")
    add("--server-name", metavar="NAME", help="name in the server's certificate (the host of --address)")


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


def _add_features(parser: ArgumentParser) -> None:
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
        "--history-times",
        nargs="+",
        action="extend",
        type=float,
        default=[],
        metavar="SECONDS",
        help="seconds since 1970 of the history's events, one for each item; nan for one that is not known",
    )
    parser.add_argument(
        "--feature",
        action="append",
        type=flags.pair,
        default=[],
        metavar="NAME=VALUE",
        help="another feature of the query; repeat it for several values",
    )


def _add_batch(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="file of queries, one on each line")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="file of answers: one JSON document on each line, or Parquet where the name ends in .parquet; "
        "it appears when it is complete",
    )
    parser.add_argument(
        "--format",
        choices=("text", "jsonl"),
        help="format of FILE: texts, or JSON objects with any of text, history, history_times, features, "
        "item_id and user (jsonl where the name ends in .jsonl or .ndjson, otherwise text)",
    )
    _add_hits(parser)
    parser.add_argument(
        "--timeout",
        type=flags.bounded_seconds(86_400.0),
        metavar="SECONDS",
        help="timeout for the whole file (none)",
    )


def search(arguments: Namespace) -> Result:
    """Search for the items nearest to a query."""
    with connect(arguments) as client:
        features = _features(arguments, client)
        times = tuple(arguments.history_times)
        history, item_id, user = tuple(arguments.history), arguments.item_id, arguments.user
        query = Query(arguments.text, history, features, item_id, times, user)
        answer = client.search(query, arguments.k, **_options(arguments))
    return answer_document(answer), lambda console: tables.show_answer(console, answer)


def encode(arguments: Namespace) -> Result:
    """Compute the vectors of texts, or of a query without text; all have the same history and features."""
    texts, history, user = arguments.texts, tuple(arguments.history), arguments.user
    times = tuple(arguments.history_times)
    with connect(arguments) as client:
        features = _features(arguments, client)
        queries = [Query(text, history, features, None, times, user) for text in texts or [None]]
        vectors = client.encode(queries).tolist()
    document = {"texts": texts, "history": list(history), "features": features, "vectors": vectors}
    labels = texts or [", ".join([*history, *(f"{name}={value}" for name, value in arguments.feature)])]
    return document, lambda console: tables.show_vectors(console, labels, vectors)


def score(arguments: Namespace) -> Result:
    """Compute the scores of given items for a query, in the order of the items."""
    with connect(arguments) as client:
        features, times = _features(arguments, client), tuple(arguments.history_times)
        query = Query(arguments.text, tuple(arguments.history), features, None, times, arguments.user)
        found = client.score(query, arguments.items)
    document = {
        "scores": [{"id": item_id, "score": value} for item_id, value in found.items],
        "kind": found.kind,
        "basis": found.basis,
        "unknown_history": found.unknown_history,
        "bundle_version": found.bundle_version,
        **found.timing._asdict(),
        **({"sequence": found.sequence} if found.sequence else {}),
    }
    return document, lambda console: tables.show_scores(console, found)


def info(arguments: Namespace) -> Result:
    """Show what a server serves."""
    with connect(arguments) as client:
        found = client.info()
    return dataclasses.asdict(found), lambda console: tables.show_info(console, found)


def status(arguments: Namespace) -> Result:
    """Show which bundles answer, which candidate is being prepared, and the last error."""
    with connect(arguments) as client:
        found = client.info()
    state = found.state
    following: dict[str, Any] = state["following"]
    document = {
        "name": found.name,
        "bundles": state["bundles"],
        "following": {**following, **tables.ages(following, time.time())} if following else None,
        "shadow": state["shadow"] or None,
        **{key: state[key] for key in ("workers", "workers_up", "restarts", "uptime_seconds")},
    }
    return document, lambda console: tables.show_status(console, found.name, state)


def batch(arguments: Namespace) -> Result:
    """Search for each query of a file, and write the answers to another file."""
    source, output = arguments.file, arguments.output
    if source.exists() and output.exists() and source.samefile(output):
        raise UsageError("--output: is the file of queries itself")
    lines = count_lines(source)  # raises before anything is shown where the file is missing
    check_answer_file(output)
    columns = (TextColumn("batch"), BarColumn(), _Speed(), TimeRemainingColumn())
    with connect(arguments) as client, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("batch", total=lines)
        done = search_file(
            client,
            source,
            output,
            arguments.k,
            arguments.format,
            arguments.timeout,
            lambda line: progress.update(task, completed=line),
            **_options(arguments),
        )
    document = {
        "output": str(output),
        "queries": done.queries,
        "seconds": round(done.seconds, 3),
        "queries_per_s": round(done.queries / done.seconds, 1),
    }
    return document, lambda console: tables.show_pairs(console, document)


@contextmanager
def connect(arguments: Namespace) -> Iterator[RetrievalClient]:
    """A client by the arguments of `add_server`; advice is added to errors of the connection as a note.

    Raises:
        DataError: a file cannot be read.
        UsageError: the arguments contradict each other.
    """
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)  # it logs tracebacks of answers of others
    try:
        security = Security(
            ca=arguments.ca,
            certificate=arguments.certificate,
            key=arguments.key,
            token=_token(arguments.token_file),
            server_name=arguments.server_name,
            tls=arguments.tls,
        )
        client = RetrievalClient(arguments.address, arguments.timeout or TIMEOUT_SECONDS, security)
    except InvalidInput as error:
        is_url = error.field == "address" and arguments.address.startswith(("https:", "grpcs:"))
        raise UsageError(f"{error}; --tls encrypts" if is_url else str(error)) from None
    with client:
        try:
            yield client
        except TwinspireError as error:
            if advice := advice_on(error, arguments.address, security):
                error.add_note(advice)
            raise


def feature_values(pairs: list[tuple[str, str]], served: Info) -> dict[str, Value]:
    """The values of `--feature name=value`, of the types that the query tower takes.

    Raises:
        InvalidInput: a value is not a number, or a feature of one value is given twice.
    """
    schema: Any = served.manifest["schema"]
    values: dict[str, Value] = {}
    for name, text in pairs:
        spec = schema["query"].get(name, {})
        field = f"query.features.{name}"
        if spec.get("multi") or spec.get("kind") == "history":
            values[name] = (*values.get(name, ()), text)  # type: ignore[misc]
        elif name in values:
            raise InvalidInput(field, "given twice, but it holds one value")
        else:
            values[name] = _number(text, field) if spec.get("kind") in ("number", "time") else text
    return values


class _Speed(ProgressColumn):
    """Queries per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def _token(path: Path | None) -> str | None:
    try:
        return read_token(path) if path else os.environ.get(TOKEN) or None
    except DataError as error:
        error.add_note(f"`python -m twinspire.serving token --name NAME > {path}` makes a token")
        raise


def _features(arguments: Namespace, client: RetrievalClient) -> dict[str, Value]:
    return feature_values(arguments.feature, client.info()) if arguments.feature else {}


def _options(arguments: Namespace) -> SearchArguments:
    """The options of `_add_hits`, and `--min-sequence` of a single search."""
    return {
        "exclude": arguments.exclude,
        "exclude_history": arguments.exclude_history,
        "exclude_shown": arguments.exclude_shown,
        "filter": arguments.filter,
        "fusion": FusionMode(arguments.fusion),
        "min_score": arguments.min_score,
        "min_sequence": getattr(arguments, "min_sequence", 0),
    }


def _number(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(field, f"expected a number, got {text!r}") from None
