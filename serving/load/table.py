"""The report for a person: what was measured, and what it should have been."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.load.plan import CLIENTS, OFFERED
from serving.load.targets import TARGETS

SERVERS = {"search": "Twinspire", "naive": "naive", "noop": "no-op"}
Report = Mapping[str, Any]


def show(console: Console, report: Report) -> None:
    """Throughput, offered load, the targets, and how far the figures are to be trusted."""
    if "search_c1_rps" in report:
        console.print(_closed(report))
        console.print()
    if f"search_open{OFFERED[0]}_rps" in report:
        console.print(_offered(report))
        console.print()
    console.print(_targets(report))
    if "p50_c1_over_paced_parts" in report:
        paced = _reach(report, "p50_c1_over_paced_parts")
        text = "p50 of 1 client over no-op p50 + in-process single after a sleep as long as no-op's p50: "
        console.print(f"{text}{paced}", style="dim", highlight=False)
    for remark in _remarks(report):
        console.print(remark, style="yellow", highlight=False, markup=False)
    about = f"{report['machine']}; bundle {report['bundle_version'][:12]}; {report['rounds']} rounds of "
    about += f"{report['seconds']:g} s, medians; {report['distinct_queries']:,} queries; "
    console.print(f"{about}{report['content_checked']:,} answers compared", style="dim", highlight=False)
    if "plot" in report:
        console.print(f"plot: {report['plot']}", style="dim", highlight=False, markup=False)


def _closed(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, title="closed loop", title_justify="left")
    table.add_column("clients", justify="right")
    for name in SERVERS.values():
        table.add_column(f"{name} [dim]requests/s[/]", justify="right")
        table.add_column("p50 / p99 ms", justify="right", style="dim")
    for clients in CLIENTS:
        cells = []
        for server in SERVERS:
            prefix = f"{server}_c{clients}"
            cells += [_reach(report, f"{prefix}_rps"), _latencies(report, prefix)]
        table.add_row(str(clients), *cells)
    return table


def _offered(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, title="open loop", title_justify="left")
    for column in ("load", "offered/s", "answered/s", "p50 / p99 ms"):
        table.add_column(column, justify="right")
    for percent in OFFERED:
        prefix = f"search_open{percent}"
        offered = _number(report[f"{prefix}_offered_rps"])
        table.add_row(f"{percent} %", offered, _reach(report, f"{prefix}_rps"), _latencies(report, prefix))
    return table


def _targets(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, title="targets", title_justify="left")
    table.add_column("figure")
    table.add_column("target", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("")
    for target in TARGETS:
        met = target.is_met(report)
        if met is None:
            continue
        verdict = Text("met", style="green") if met else Text("missed", style="red")
        table.add_row(target.text, f"{target.sign} {target.bound:g}", _reach(report, target.key), verdict)
    return table


def _remarks(report: Report) -> list[str]:
    remarks = list(report["notes"])
    remarks += [f"{count} x {text}" for text, count in report["errors"].items()]
    if report["content_different"]:
        remarks.append(
            f"{report['content_different']} answers are not what the bundle says: "
            f"{report['content_first_difference']}"
        )
    return remarks


def _reach(report: Report, key: str) -> str:
    """A figure, and how far its rounds reach."""
    middle = _number(report[key])
    if f"{key}_min" not in report:
        return middle
    low, high = (_number(report[f"{key}_{end}"]) for end in ("min", "max"))
    return f"{middle} [dim]{low}-{high}[/]"


def _latencies(report: Report, prefix: str) -> str:
    figures = (report[f"{prefix}_{percentile}_us"] for percentile in ("p50", "p99"))
    return " / ".join("-" if each is None else f"{each / 1000:.2f}" for each in figures)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
