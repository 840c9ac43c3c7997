"""The figures of a live test, their targets, and what is shown of them."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from tests.load.live import history
from tests.load.plan import Target
from tests.load.report import Report, Table
from tests.load.report import show as show_report

TARGETS = (  # on two cores
    Target(history.LOST, "acknowledged writes that were lost", "<=", 0),
    Target(history.DELETED, "deleted items in answers", "<=", 0),
    Target(history.STALE, "old versions of items in answers", "<=", 0),
    Target(history.DUPLICATE, "items twice in an answer", "<=", 0),
    Target(history.EARLY, "answers from before the write that they had to see", "<=", 0),
    Target(history.AHEAD, "items from after the sequence of their answer", "<=", 0),
    Target(history.SHORT, "answers with fewer items than exist", "<=", 0),
    Target(history.REPEATED, "sequences of two writes", "<=", 0),
    Target("own_found_share", "written items that are found by their own text", ">=", 0.99),
    Target("swap_failed", "requests that failed in swaps", "<=", 0),
    Target("swap_mixed", "answers in swaps that mix two bundles", "<=", 0),
    Target("live_found_share", "live items that are first for their own text", ">=", 0.99),
    Target("load_errors", "searches that failed under load", "<=", 0),
    Target("rps_share_with_live", "throughput with few live items against none", ">=", 0.92),
    Target("rps_share_with_many", "throughput with many live items against none", ">=", 0.75),
    Target("rps_share_while_writing", "throughput during upserts against without", ">=", 0.85),
    Target("p99_ratio_while_writing", "p99 during upserts against without", "<=", 1.5),
    Target("upserts_per_s", "upserts a second in batches of 100, durable and found", ">=", 2000),
    Target("visible_p99_ms", "p99 of one upsert until it is found, ms", "<=", 50),
)
LOADS = Table(
    "",
    ("64 clients", "requests/s", "p50 us", "p99 us"),
    {
        "none": ["no live items"],
        "few": ["few live items"],
        "many": ["many live items"],
        "not_writing": ["few, both cores"],
        "writing": ["few, both cores, during upserts"],
    },
    ("{}_rps", "{}_p50_us", "{}_p99_us"),
)


def joined(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One document of the figures of the parts that ran: `history`, `swap`, `load`."""
    report: dict[str, Any] = dict(found.get("history", {}))
    for name, value in found.get("swap", {}).items():
        alone = name.startswith("live_")
        report[name if alone else f"swap_{name}"] = value
    for name, value in found.get("load", {}).items():
        report[name.replace("rps_share_with_few", "rps_share_with_live")] = value
    if "swap_deleted_in_answers" in report:
        report[history.DELETED] = report.get(history.DELETED, 0) + report["swap_deleted_in_answers"]
    return report


def faults(report: Report) -> str:
    """What must be 0 and is not, in words; other targets depend on the machine."""
    counts = [each for each in TARGETS if (each.sign, each.bound) == ("<=", 0)]
    return ", ".join(f"{report[each.key]} {each.text}" for each in counts if report.get(each.key))


def show(console: Console, report: Report) -> None:
    """Figures beside their targets, and what was done."""
    remarks = [f"{name}: {text}" for name, texts in report.get("violations", {}).items() for text in texts]
    remarks += [f"{count} x {text}" for text, count in report.get("swap_errors", {}).items()]
    remarks += [report["swap_mixed_first"]] if report.get("swap_mixed") else []
    about = [f"{report['machine']}; bundles {' and '.join(each[:12] for each in report['bundles'])}"]
    if "operations" in report:
        about.append(
            f"history: {report['operations']:,} operations in {report['seconds']:,.0f} s on "
            f"{report['store']}, {report['services']} services; {report['writes']:,} items written, "
            f"{report['answers']:,} answers checked; killed: {report['kills_catalogue']} times the "
            f"catalogue's process, {report['kills_worker']} times a worker; {report['swaps']} swaps, "
            f"{report['rollbacks']} rollbacks, {report['refreshes']} refreshes"
        )
    if "swap_requests" in report:
        about.append(
            f"swap: {report['swap_requests']:,} answers, {report['swap_swaps']} swaps, "
            f"{report['live_items']:,} live items, {report['swap_deletes']:,} deletes"
        )
    show_report(console, report, [LOADS], TARGETS, about, remarks)
