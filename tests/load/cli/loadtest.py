"""`python -m tests.load loadtest`: the load test of a bundle, or a closed loop on a running server."""

import importlib.util
from argparse import Namespace
from pathlib import Path
from typing import Any

from protos.cli import Result, UsageError
from protos.errors import MissingStage, Unavailable
from protos.system.timing import p99_remark
from serving.address import is_local
from serving.benchmark import query_generator
from serving.cli import tables
from serving.client import RetrievalClient
from serving.retrieval.query import Query
from tests.load import measure_load
from tests.load.cli import options
from tests.load.cli.options import PLOTS
from tests.load.cli.steps import (
    check_folder,
    different_answers,
    is_folder,
    plot_file,
    result_or_failure,
    run_rounds,
    tested_folder,
)
from tests.load.load import closed_loop
from tests.load.measure_load import LoadTest, duration
from tests.load.plan import LoadPlan
from tests.load.report import progress
from tests.load.workload import Workload, queries_from_file

NOTE = "closed loop; clients and server share one machine"
DRAWN = {"closed", "open"}  # parts that the plot shows


def run(arguments: Namespace) -> Result:
    """Run the load test.

    Raises:
        UsageError: the options do not go together.
        DataError: answers differ from the bundle's own; the report has been shown.
        MissingStage: there is no bundle, or no library for the plot.
        Unavailable: a server does not start, or does not answer.
    """
    known = options
    for name in known.WITH_BUNDLE if arguments.address else known.WITH_ADDRESS:
        if getattr(arguments, name) is not None:
            other = "--address" if arguments.address else "--bundle"
            raise UsageError(f"--{name.replace('_', '-')}: has no effect with {other}")
    return _test_server(arguments) if arguments.address else _test_bundle(arguments)


def _test_server(arguments: Namespace) -> Result:
    """A closed loop on a running server; answers are not compared."""
    address = arguments.address
    if not is_local(address):
        raise UsageError(f"--address: {address} is not this machine; load stays on loopback")
    if arguments.queries:
        queries = queries_from_file(arguments.queries)
    else:
        queries = _queries_of_server(address, arguments.seed)
    requests = Workload(queries, arguments.k, None).searches()
    clients, seconds = arguments.clients or 4, arguments.seconds or 10.0
    with progress(seconds) as (_, tick):
        result = closed_loop(address, requests, clients, seconds, 1.0, arguments.seed, tick)
    if not result.latencies:
        raise Unavailable(f"{address}: no request was answered: {result.errors}")
    document = {
        "note": NOTE,
        "clients": clients,
        "seconds": seconds,
        "distinct_queries": len(queries),
        "requests": result.offered,
        "errors": result.errors,
        "requests_per_s": round(result.rps, 1),
        **{f"search_p{each}_ms": round(result.percentile_us(each) / 1000, 3) for each in (50, 95, 99)},
    }
    if remark := p99_remark({"search": len(result.latencies)}):
        document["p99_note"] = remark
    return document, lambda console: tables.show_pairs(console, document)


def _test_bundle(arguments: Namespace) -> Result:
    plan = _plan(arguments)
    plot = _plot(arguments, plan)
    test, manifest = run_rounds(plan, LoadTest, duration(plan))
    document = test.report(manifest)
    if plot is not None:
        from tests.load import plots

        path = plot / f"{manifest.name}-{manifest.bundle_version[:12]}.png" if plot.is_dir() else plot
        document["plot"] = str(plots.save_load(document, path))
    result: Result = document, lambda console: measure_load.show(console, document)
    return result_or_failure(result, arguments, different_answers(document))


def _plan(arguments: Namespace) -> LoadPlan:
    given = {
        "parts": arguments.only,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "overload_seconds": arguments.overload_seconds,
        "soak_seconds": arguments.soak,
        "deadline": arguments.deadline,
        "queries": arguments.queries,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    plan = LoadPlan(tested_folder(arguments), k=arguments.k, seed=arguments.seed, **chosen)
    if plan.soak_seconds and "overload" not in plan.parts:
        raise UsageError("--soak: follows the overload, which --only leaves out")
    return plan


def _plot(arguments: Namespace, plan: LoadPlan) -> Path | None:
    """The file of the plot, or its folder; None where no part has one."""
    if not DRAWN & {*plan.parts}:
        if arguments.plot:
            raise UsageError("--plot: shows the parts closed and open, which --only leaves out")
        return None
    if importlib.util.find_spec("matplotlib") is None:  # reported before anything is measured
        raise MissingStage("the plot needs matplotlib, which make setup installs")
    if arguments.plot:
        path = Path(arguments.plot)
        if not is_folder(path):
            return plot_file(path, "")
        check_folder(path)
        return path
    check_folder(PLOTS)
    return PLOTS


def _queries_of_server(address: str, seed: int) -> list[Query]:
    """Queries generated from the examples of the bundle that a server serves."""
    with RetrievalClient(address) as client:
        manifest: Any = client.info().manifest
    kinds = {name: spec["kind"] for name, spec in manifest["schema"]["query"].items()}
    histories = [name for name, kind in kinds.items() if kind == "history"]
    texts = [name for name, kind in kinds.items() if kind == "text"]
    return query_generator.generate(manifest["examples"], histories, texts, seed)
