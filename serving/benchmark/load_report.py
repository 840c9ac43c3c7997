"""The load test's figures as one flat document, and as tables."""

import os
import platform
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from protos.system.timing import p99_remark
from serving.benchmark import report
from serving.benchmark.load_test import LoadTest
from serving.benchmark.plan import CLIENTS, CONNECTIONS, OFFERED, SERVERS, TARGETS, missed
from serving.benchmark.report import Report, machine_text, number, table, with_range
from serving.retrieval.answer import FusionMode

PACKAGES = ("grpcio", "hnswlib", "onnxruntime", "numpy", "protobuf")
UNCOMPARED = "answers were not compared: the query tower computes in int8, so scores depend on the batch"
DENSE_ALONE = (
    "the bundle is hybrid; all searches are by the vectors alone, as the plain server knows no other"
)


def document(test: LoadTest, bundle_version: str) -> dict[str, Any]:
    """All figures of a load test that has run, and what they were measured with."""
    plan, workload = test.plan, test.workload
    notes = [
        test.cores.note,
        "" if workload.is_compared else UNCOMPARED,
        DENSE_ALONE if workload.fusion is FusionMode.DENSE else "",
        p99_remark(test.figures.calls),
    ]
    found = {
        "machine": machine_text(),
        "cores": os.cpu_count(),
        "pinned": test.cores.servers is not None,
        "notes": [each for each in notes if each],
        "python": platform.python_version(),
        **{f"{name}_version": version(name) for name in PACKAGES},
        "bundle_version": bundle_version,
        "parts": list(plan.parts),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "deadline_seconds": plan.deadline,
        "overload_seconds": plan.overload_seconds,
        "connections": CONNECTIONS,
        "k": plan.k,
        "seed": plan.seed,
        "distinct_queries": len(workload.queries),
        **test.figures.document(),
        **test.overload,
        "errors": test.errors,
        "content_checked": workload.checked,
        "content_different": workload.different,
        "content_first_difference": workload.first,
    }
    return {**found, "targets_missed": missed(TARGETS, found)}


def show(console: Console, found: Report) -> None:
    """Throughput, latency by offered load, the targets, and remarks."""
    remarks = [*found["notes"], *(f"{count} x {text}" for text, count in found["errors"].items())]
    if found["content_different"]:
        first = found["content_first_difference"]
        remarks.append(f"{found['content_different']} answers differ from the bundle's own: {first}")
    about = (
        f"{found['machine']}; bundle {found['bundle_version'][:12]}; {found['rounds']} rounds of "
        f"{found['seconds']:g} s, medians; {found['distinct_queries']:,} queries; "
        f"{found['content_checked']:,} answers compared"
    )
    report.write(console, found, [*_closed(found), *_offered(found)], TARGETS, remarks, [about], "targets")


def _closed(found: Report) -> list[Table]:
    if "search_c1_rps" not in found:
        return []
    heads = ["clients"]
    for name in SERVERS.values():
        heads += [f"{name} [dim]requests/s[/]", "[dim]p50 / p99 ms[/]"]
    rows = []
    for clients in CLIENTS:
        row = [str(clients)]
        for server in SERVERS:
            prefix = f"{server}_c{clients}"
            row += [with_range(found, f"{prefix}_rps"), f"[dim]{_latencies(found, prefix)}[/]"]
        rows.append(row)
    return [table(heads, rows, "closed loop")]


def _offered(found: Report) -> list[Table]:
    if f"search_open{OFFERED[0]}_rps" not in found:
        return []
    rows = []
    for percent in OFFERED:
        prefix = f"search_open{percent}"
        offered, answered = number(found[f"{prefix}_offered_rps"]), with_range(found, f"{prefix}_rps")
        share = found[f"{prefix}_answered_share"]
        in_time = "-" if share is None else f"{100 * share:.1f} %"
        rows.append((f"{percent} %", offered, answered, in_time, _latencies(found, prefix)))
    heads = ("load", "offered/s", "answered/s", "in time", "p50 / p99 ms of those answered in time")
    return [table(heads, rows, "open loop")]


def _latencies(found: Report, prefix: str) -> str:
    figures = (found[f"{prefix}_{percentile}_us"] for percentile in ("p50", "p99"))
    return " / ".join("-" if each is None else f"{each / 1000:.2f}" for each in figures)
