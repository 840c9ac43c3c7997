"""The report of a swap test for a person."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.load.swap_report import TARGETS


def show(console: Console, report: Mapping[str, Any]) -> None:
    """Latencies, the targets, and what was swapped how."""
    console.print(_latencies(report))
    console.print()
    console.print(_targets(report))
    for text, count in report["errors"].items():
        console.print(f"{count} x {text}", style="yellow", highlight=False, markup=False)
    if report["mixed"]:
        console.print(report["mixed_first"], style="yellow", highlight=False, markup=False)
    first, second = (each[:12] for each in report["versions"])
    for line in (
        f"{report['requests']:,} answers, all looked at; {report['swaps']} swaps between {first} and "
        f"{second} under load, {report['memory_swaps']} in all",
        f"from the alias to the last answer of the old bundle: {_number(report['swap_seconds_median'])} s, "
        f"at most {_number(report['swap_seconds_max'])} s",
        f"memory: {report['memory_start_mib']:,.0f} MiB before, {report['memory_end_mib']:,.0f} MiB after",
        f"{report['machine']}; {report['workers']} workers, {report['clients']} clients, "
        f"{report['requests_per_s']:,.0f} requests/s, {report['seconds']:.0f} s",
    ):
        console.print(line, style="dim", highlight=False, markup=False)
    console.print(f"plot: {report['plot']}", style="dim", highlight=False, markup=False, soft_wrap=True)


def _latencies(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("requests")
    for column in ("answered", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for name in ("between", "during"):
        table.add_row(
            f"{name} swaps",
            f"{report[f'requests_{name}']:,}",
            *(_number(report[f"{percentile}_{name}_ms"]) for percentile in ("p50", "p99")),
        )
    return table


def _targets(report: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("figure")
    table.add_column("target", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("")
    for target in TARGETS:
        verdict = Text("met", style="green") if target.is_met(report) else Text("missed", style="red")
        table.add_row(target.text, f"{target.sign} {target.bound:g}", _number(report[target.key]), verdict)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
