"""`python -m serving gatewaytest`: the gateway under load, beside FastAPI with the same search in process."""

import gc
import os
import platform
from argparse import Namespace
from importlib.metadata import version
from typing import Any

from rich.console import Console

from protos.cli import Result, print_result
from protos.errors import DataError
from protos.scores import is_bounded
from protos.system.timing import p99_remark
from serving import bundles
from serving.benchmark import report
from serving.benchmark.gateway_test import CLIENTS, KINDS, TARGETS, GatewayPlan, GatewayTest
from serving.benchmark.plan import missed
from serving.benchmark.report import Report, machine_text, number, progress, table, with_range
from serving.benchmark.services import choose_cores, pinned
from serving.benchmark.workload import Workload, expected_answers, load_queries
from serving.cli import tables
from serving.retrieval.retriever import Retriever

PACKAGES = ("fastapi", "grpcio", "h11", "onnxruntime", "pydantic", "starlette", "uvicorn")


def run(arguments: Namespace) -> Result:
    """Run the test.

    Raises:
        DataError: answers differ from the bundle's own; the report has been shown.
        MissingStage: there is no bundle.
        Unavailable: a server does not start, or does not answer.
    """
    folder = bundles.newest(arguments.bundle or bundles.BUNDLES)
    names = ("rounds", "seconds", "queries", "k", "seed")
    plan = GatewayPlan(folder, **{name: getattr(arguments, name) for name in names})
    retriever = Retriever.load(folder)
    manifest = retriever.manifest
    queries = load_queries(manifest, plan.queries, plan.seed)
    expected = expected_answers(retriever, queries, plan.k) if is_bounded(manifest) else None
    del retriever
    gc.collect()
    cores = choose_cores()
    with progress(plan.duration) as (say, tick), pinned(cores.load):
        test = GatewayTest(plan, Workload(queries, plan.k, expected), cores, say, tick)
        test.run()
    found = document(test, manifest.bundle_version)
    result: Result = found, lambda console: show(console, found)
    if found["content_different"]:
        print_result(result, arguments.json, tables.console)
        raise DataError(f"answers differ from the bundle's own; {found['content_first_difference']}")
    return result


def document(test: GatewayTest, bundle_version: str) -> dict[str, Any]:
    """All figures of a test that has run, and what they were measured with."""
    plan, workload = test.plan, test.workload
    notes = [test.cores.note, p99_remark(test.figures.calls)]
    found = {
        "machine": machine_text(),
        "cores": os.cpu_count(),
        "pinned": test.cores.servers is not None,
        "load_average": round(os.getloadavg()[0], 2),
        "notes": [each for each in notes if each],
        "python": platform.python_version(),
        **{f"{name}_version": version(name) for name in PACKAGES},
        "bundle_version": bundle_version,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "k": plan.k,
        "seed": plan.seed,
        "distinct_queries": len(workload.queries),
        **test.figures.document(),
        "errors": test.errors,
        "content_checked": workload.checked,
        "content_different": workload.different,
        "content_first_difference": workload.first,
    }
    return {**found, "targets_missed": missed(TARGETS, found)}


def show(console: Console, found: Report) -> None:
    """Throughput, latencies and processor time, the ratios, and remarks."""
    rows = []
    for clients in CLIENTS:
        for kind, name in KINDS.items():
            key = f"{kind}_c{clients}"
            latencies = (found[f"{key}_{each}_us"] for each in ("p50", "p99"))
            shown = " / ".join("-" if each is None else f"{each / 1000:.2f}" for each in latencies)
            rows.append(
                (str(clients), name, with_range(found, f"{key}_rps"), shown, number(found[f"{key}_cpu_us"]))
            )
    heads = ("clients", "server", "requests/s", "p50 / p99 ms", "processor us")
    remarks = [*found["notes"], *(f"{count} x {text}" for text, count in found["errors"].items())]
    if found["content_different"]:
        remarks.append(f"{found['content_different']} answers differ: {found['content_first_difference']}")
    about = (
        f"{found['machine']}; bundle {found['bundle_version'][:12]}; {found['rounds']} rounds of "
        f"{found['seconds']:g} s, medians; {found['content_checked']:,} answers compared"
    )
    title = "closed loop, all servers on one core" if found["pinned"] else "closed loop"
    report.write(console, found, [table(heads, rows, title)], TARGETS, remarks, [about], "ratios")
