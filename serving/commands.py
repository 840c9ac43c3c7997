"""What the commands of `python -m serving` do that serve or load; `__main__.py` reads their arguments.

Those that ask are in `client/commands.py`.
"""

import dataclasses
import logging
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from protos.bundle import Manifest, write_file
from protos.errors import Unavailable
from serving import bundles, demo, loadtest, tables
from serving.address import host_of, is_loopback
from serving.command import Misuse, Result
from serving.limits import Limits

if TYPE_CHECKING:
    from serving.server import RetrievalServer

log = logging.getLogger(__name__)


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
