"""What each command that asks a server does; `arguments.py` reads its arguments."""

import dataclasses
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from protos.errors import InvalidInput
from serving import tables
from serving.client.batch import answer_document, search_file
from serving.client.blocking import RetrievalClient
from serving.client.channel import TIMEOUT_SECONDS
from serving.client.queries import count_lines
from serving.client.security import Security, read_token
from serving.command import Misuse, Result
from serving.convert import Info
from serving.query import Query, Value
from serving.release_rows import ages

TOKEN = "TWINSPIRE_TOKEN"  # environment variable


def search(arguments: Namespace) -> Result:
    """Ask one query."""
    with connect(arguments) as client:
        features = _features(arguments, client)
        query = Query(arguments.text, tuple(arguments.history), features, arguments.item_id)
        answer = client.search(
            query, arguments.k, arguments.exclude, exclude_history=arguments.exclude_history
        )
    return answer_document(answer), lambda console: tables.show_answer(console, answer)


def encode(arguments: Namespace) -> Result:
    """The vectors of texts, or of a query without one; history and features are those of each."""
    texts, history = arguments.texts, tuple(arguments.history)
    with connect(arguments) as client:
        features = _features(arguments, client)
        queries = [Query(text, history, features) for text in texts or [None]]
        vectors = client.encode(queries).tolist()
    document = {"texts": texts, "history": list(history), "features": features, "vectors": vectors}
    labels = texts or [", ".join([*history, *(f"{name}={value}" for name, value in arguments.feature)])]
    return document, lambda console: tables.show_vectors(console, labels, vectors)


def info(arguments: Namespace) -> Result:
    """What is being served."""
    with connect(arguments) as client:
        found = client.info()
    return dataclasses.asdict(found), lambda console: tables.show_info(console, found)


def status(arguments: Namespace) -> Result:
    """Which bundles answer, what waits to, and what went wrong; a report, whatever it says."""
    with connect(arguments) as client:
        found = client.info()
    state = found.state
    following: dict[str, Any] = state["following"]
    document = {
        "name": found.name,
        "bundles": state["bundles"],
        "following": {**following, **ages(following, time.time())} if following else None,
        "shadow": state["shadow"] or None,
        **{key: state[key] for key in ("workers", "workers_up", "restarts", "uptime_seconds")},
    }
    return document, lambda console: tables.show_status(console, found.name, state)


def batch(arguments: Namespace) -> Result:
    """Ask each query of a file, and write the answers to another."""
    source, output = arguments.file, arguments.output
    if source.exists() and output.exists() and source.samefile(output):
        raise Misuse("--output: is the file of queries itself")
    columns = (TextColumn("batch"), BarColumn(), _Speed(), TimeRemainingColumn())
    with connect(arguments) as client, Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("batch", total=count_lines(source))
        done = search_file(
            client,
            source,
            output,
            arguments.k,
            arguments.exclude,
            arguments.exclude_history,
            arguments.format,
            arguments.timeout,
            lambda line: progress.update(task, completed=line),
        )
    document = {
        "output": str(output),
        "queries": done.queries,
        "seconds": round(done.seconds, 3),
        "queries_per_s": round(done.queries / done.seconds, 1),
    }
    return document, lambda console: tables.show_pairs(console, document)


def connect(arguments: Namespace) -> RetrievalClient:
    """A client as the arguments of `add_server` want it.

    Raises:
        DataError: a file cannot be read.
        Misuse: the arguments make no sense together.
    """
    try:
        security = Security(
            ca=arguments.ca,
            certificate=arguments.certificate,
            key=arguments.key,
            token=_token(arguments.token_file),
            server_name=arguments.server_name,
            tls=arguments.tls,
        )
        return RetrievalClient(arguments.address, arguments.timeout or TIMEOUT_SECONDS, security)
    except InvalidInput as error:
        raise Misuse(str(error)) from None


def feature_values(pairs: list[tuple[str, str]], served: Info) -> dict[str, Value]:
    """`--feature name=value` as values of the kinds that the served query tower takes.

    Raises:
        InvalidInput: a number is none, or a feature that holds one value is given twice.
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
            values[name] = _number(text, field) if spec.get("kind") == "number" else text
    return values


class _Speed(ProgressColumn):
    """Queries a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def _token(path: Path | None) -> str | None:
    return read_token(path) if path else os.environ.get(TOKEN) or None


def _features(arguments: Namespace, client: RetrievalClient) -> dict[str, Value]:
    return feature_values(arguments.feature, client.info()) if arguments.feature else {}


def _number(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(field, f"expected a number, got {text!r}") from None
