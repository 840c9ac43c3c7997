"""`python -m serving loadtest`: the whole load test of a bundle, or load on a server that runs already."""

import gc
from argparse import Namespace
from pathlib import Path
from typing import Any

from protos.errors import DataError, MissingStage, Unavailable
from protos.scores import is_bounded
from serving import bundles, command, tables, varied
from serving.address import host_of, is_loopback
from serving.client import RetrievalClient
from serving.command import Misuse, Result
from serving.load import arguments as known
from serving.load import closed_loop, content, queries, report, table
from serving.load.content import Content
from serving.load.cores import cores, on
from serving.load.measured import Measured
from serving.load.parts import PARTS
from serving.load.plan import Plan, Work
from serving.load.progress import progress
from serving.query import Query
from serving.retriever import Retriever

NOTE = "closed loop; clients and server share one machine"
DRAWN = {"closed", "open"}  # parts of which there is a plot


def run(arguments: Namespace) -> Result:
    """Do what the arguments say.

    Raises:
        Misuse: they do not go together.
        DataError: some answers are not what the bundle says; the report has been shown.
        MissingStage: there is nothing to test, or nothing to draw with.
        Unavailable: a server does not come up, or answers nothing.
    """
    alone = known.WITH_BUNDLE if arguments.address else known.WITH_ADDRESS
    for name in alone:
        if getattr(arguments, name) is not None:
            other = "--address" if arguments.address else "--bundle"
            raise Misuse(f"--{name.replace('_', '-')}: says nothing with {other}")
    return _drive(arguments) if arguments.address else _test(arguments)


def _drive(arguments: Namespace) -> Result:
    """A closed loop on a server that runs already; what it answers is not looked at."""
    address = arguments.address
    if not is_loopback(host_of(address)):
        raise Misuse(f"--address: {address} is not this machine; load stays on loopback")
    asked = queries.from_file(arguments.queries) if arguments.queries else _served(address, arguments.seed)
    requests = Content(asked, arguments.k, None).searches()
    clients, seconds = arguments.clients or 4, arguments.seconds or 10.0
    with progress(seconds) as (_, tick):
        measured = closed_loop.run(address, requests, clients, seconds, 1.0, arguments.seed, tick)
    if not measured.latencies:
        raise Unavailable(f"{address}: no request was answered: {measured.errors}")
    document = {
        "note": NOTE,
        "clients": clients,
        "seconds": seconds,
        "distinct_queries": len(asked),
        "requests": measured.offered,
        "errors": measured.errors,
        "requests_per_s": round(measured.rps, 1),
        **_milliseconds(measured),
    }
    return document, lambda console: tables.show_pairs(console, document)


def _test(arguments: Namespace) -> Result:
    """The load test of a bundle."""
    plan = _plan(arguments)
    plot = _plot(arguments, plan)
    retriever = Retriever.load(plan.bundle)
    manifest = retriever.manifest
    asked = queries.from_file(plan.queries) if plan.queries else varied.of_bundle(manifest, plan.seed)
    # Without a bound on scores an answer cannot be compared; the report says so.
    expected = content.expected(retriever, asked, plan.k) if is_bounded(manifest) else None
    del retriever  # or it would share pages with the servers, and their memory would look less
    gc.collect()
    places = cores()
    with progress(report.seconds(plan)) as (say, tick), on(places.load):
        work = Work(plan, Content(asked, plan.k, expected), places, say, tick)
        document = report.measure(work, manifest.bundle_version)
    if plot is not None:
        from serving.load import plot as drawing  # takes a second, and matplotlib

        place = plot / f"{manifest.name}-{manifest.bundle_version[:12]}.png" if plot.is_dir() else plot
        document["plot"] = str(drawing.save(document, place))
    result: Result = document, lambda console: table.show(console, document)
    if document["content_different"]:
        command.show(result, arguments.json)
        raise DataError(
            f"{document['content_different']} of {document['content_checked']} answers are not what the "
            f"bundle says; {document['content_first_difference']}"
        )
    return result


def _plan(arguments: Namespace) -> Plan:
    plan = Plan(bundles.newest(arguments.bundle or bundles.BUNDLES), arguments.only or PARTS)
    if arguments.soak and "overload" not in plan.parts:
        raise Misuse("--soak: comes after the overload, which --only leaves out")
    given = {
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "overload_seconds": arguments.overload_seconds,
        "soak_seconds": arguments.soak,
        "deadline": arguments.deadline,
        "queries": arguments.queries,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    return Plan(plan.bundle, plan.parts, k=arguments.k, seed=arguments.seed, **chosen)


def _plot(arguments: Namespace, plan: Plan) -> Path | None:
    """The file, or the folder for it; None where there is nothing to draw."""
    if not DRAWN & {*plan.parts}:
        if arguments.plot:
            raise Misuse("--plot: draws the parts closed and open, which --only leaves out")
        return None
    try:
        import matplotlib.figure  # noqa: F401  # before anything is measured
    except ModuleNotFoundError:
        raise MissingStage("the plot takes matplotlib; install it with: pip install .[load]") from None
    if arguments.plot:
        return Path(arguments.plot)
    folder = bundles.BUNDLES.parent / "loadtest"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _served(address: str, seed: int) -> list[Query]:
    """Queries made from the examples of the bundle that a server serves."""
    with RetrievalClient(address) as client:
        manifest: Any = client.info().manifest
    kinds = {name: spec["kind"] for name, spec in manifest["schema"]["query"].items()}
    histories = [name for name, kind in kinds.items() if kind == "history"]
    texts = [name for name, kind in kinds.items() if kind == "text"]
    return varied.made(manifest["examples"], histories, texts, seed)


def _milliseconds(measured: Measured) -> dict[str, float]:
    return {
        f"search_p{percent}_ms": round(measured.percentile_us(percent) / 1000, 3) for percent in (50, 95, 99)
    }
