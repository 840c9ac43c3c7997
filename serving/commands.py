"""What each subcommand of `python -m serving` does; `__main__.py` reads their arguments.

A command returns what `--json` prints and what a person sees otherwise: a document and a function
that shows it.
"""

import dataclasses
import logging
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from protos.bundle import Manifest, write_file
from protos.errors import InvalidInput, Unavailable
from serving import bundles, demo, loadtest, tables
from serving.address import host_of, is_loopback
from serving.answer import Answer
from serving.client import RetrievalClient
from serving.convert import Info
from serving.limits import Limits
from serving.query import Query, Value

if TYPE_CHECKING:
    from serving.server import RetrievalServer

log = logging.getLogger(__name__)

Result = tuple[dict[str, Any], Callable[[Console], None]]


class Misuse(Exception):
    """The arguments make no sense together."""


def serve(arguments: Namespace, ready: Callable[[Result], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is called as soon as requests are answered."""
    from serving.retriever import Retriever  # only this command needs the towers' runtime
    from serving.server import RetrievalServer, stop_signal

    limits = _limits(arguments)
    if not 1 <= arguments.streams < arguments.handlers:
        raise Misuse(f"--streams: expected 1 to {arguments.handlers - 1}, fewer than --handlers")
    if arguments.port_file:
        arguments.port_file.unlink(missing_ok=True)
    stopped = stop_signal()
    folder = bundles.download(arguments.model) if arguments.model else bundles.newest(arguments.bundle)
    log.info("loading %s", folder)
    retriever = Retriever.load(folder, arguments.threads)
    if not is_loopback(arguments.host):
        log.warning("%s: whoever reaches this address can ask; nothing is encrypted", arguments.host)
    server = RetrievalServer(
        retriever, limits, arguments.host, arguments.port, arguments.handlers, arguments.streams
    )
    server.start()
    if arguments.port_file:
        write_file(arguments.port_file, f"{server.port}\n".encode())
    log.info("serving at %s", server.address)
    ready((_serving_document(server, retriever.manifest), lambda console: None))
    stopped.wait()
    log.info("stopping; requests in flight have %g s", arguments.grace)
    server.stop(arguments.grace)
    if arguments.port_file:
        arguments.port_file.unlink(missing_ok=True)


def show_all(arguments: Namespace) -> Result:
    """Serve, ask the first examples, sum up, and stop."""
    folder = bundles.download(arguments.model) if arguments.model else bundles.newest(arguments.bundle)
    output = Console(stderr=True) if arguments.json else tables.console()
    document = demo.run(folder, output)

    def show(console: Console) -> None:
        console.print("6/6  summary", highlight=False)
        tables.show_pairs(console, demo.summary(document["manifest"]))

    return document, show


def search(arguments: Namespace) -> Result:
    """Ask one query."""
    with RetrievalClient(arguments.address, arguments.timeout) as client:
        features = _features(arguments, client)
        query = Query(arguments.text, tuple(arguments.history), features, arguments.item_id)
        answer = client.search(
            query, arguments.k, arguments.exclude, exclude_history=arguments.exclude_history
        )
    return _answer_document(answer), lambda console: tables.show_answer(console, answer)


def encode(arguments: Namespace) -> Result:
    """The vectors of texts, or of a query without one; history and features are those of each."""
    texts, history = arguments.texts, tuple(arguments.history)
    with RetrievalClient(arguments.address, arguments.timeout) as client:
        features = _features(arguments, client)
        queries = [Query(text, history, features) for text in texts or [None]]
        vectors = client.encode(queries).tolist()
    document = {"texts": texts, "history": list(history), "features": features, "vectors": vectors}
    labels = texts or [", ".join([*history, *(f"{name}={value}" for name, value in arguments.feature)])]
    return document, lambda console: tables.show_vectors(console, labels, vectors)


def info(arguments: Namespace) -> Result:
    """What is being served."""
    with RetrievalClient(arguments.address, arguments.timeout) as client:
        found = client.info()
    return dataclasses.asdict(found), lambda console: tables.show_info(console, found)


def load(arguments: Namespace) -> Result:
    """Send load to a server on this machine."""
    if not is_loopback(host_of(arguments.address)):
        raise Misuse(f"--address: {arguments.address} is not this machine; load stays on loopback")
    if arguments.queries:
        queries = loadtest.read_queries(arguments.queries)
    else:
        queries = loadtest.example_queries(arguments.address)
    plan = loadtest.Load(arguments.clients, arguments.seconds, arguments.k, seed=arguments.seed)
    columns = (TextColumn("load"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("load", total=plan.seconds)
        report = loadtest.run(
            arguments.address,
            queries,
            plan,
            lambda seconds: progress.update(task, completed=seconds),
        )
    if "search_p50_ms" not in report:
        raise Unavailable(f"{arguments.address}: no request was answered: {report['errors']}")
    return report, lambda console: tables.show_pairs(console, report)


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


def _features(arguments: Namespace, client: RetrievalClient) -> dict[str, Value]:
    return feature_values(arguments.feature, client.info()) if arguments.feature else {}


def _number(text: str, field: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(field, f"expected a number, got {text!r}") from None


def _limits(arguments: Namespace) -> Limits:
    names = [field.name for field in dataclasses.fields(Limits)]
    try:
        return Limits(**{name: getattr(arguments, name) for name in names})
    except ValueError as error:
        raise Misuse(str(error)) from None


def _serving_document(server: "RetrievalServer", manifest: Manifest) -> dict[str, Any]:
    return {
        "address": server.address,
        "port": server.port,
        "name": manifest.name,
        "bundle_version": manifest.bundle_version,
        "item_count": manifest.count,
    }


def _answer_document(answer: Answer) -> dict[str, Any]:
    hits = [
        {"rank": rank, "id": hit.id, "score": hit.score, "fields": dict(hit.fields)}
        for rank, hit in enumerate(answer.hits, 1)
    ]
    return {
        "hits": hits,
        "basis": answer.basis,
        "unknown_history": answer.unknown_history,
        "bundle_version": answer.bundle_version,
        **dataclasses.asdict(answer.timing),
    }
