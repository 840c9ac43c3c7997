"""A bench as a terminal shows it."""

from typing import Any

from rich.console import Console
from rich.table import Table

from export.bench.budgets import shown
from export.bench.page import between, busy, change


def show(document: dict[str, Any], console: Console) -> None:
    """The main figures, p50 of every backend, and what was not measured."""
    previous = document["previous"]
    heads = ["", "figure", "95 %", *(["change"] if previous else [])]
    table = Table(*heads, box=None)
    for name in document["main"]:
        row = [name, shown(name, document["metrics"][name]), between(document, name)]
        table.add_row(*row, *([change(document, name)] if previous else []))
    console.print(table)
    if previous:
        before = f"{previous['at']}, bundle {previous['bundle_version'][:12]}"
        told = f"* beyond both intervals, so worth a second bench; before: {before}"
        console.print(told, highlight=False, soft_wrap=True)
    if "towers" in document:
        _show_towers(document["towers"], console)
    for each in document["budgets"]:
        if not each["holds"]:
            console.print(f"over budget: {each['text']}", style="red", highlight=False)
    warning = busy(document)
    if warning:
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
    machine = document["machine"]
    console.print(f"on {machine['processor']}, {machine['cores']} cores", highlight=False)
    console.print(f"report: {document['report']}", highlight=False, soft_wrap=True)


def _show_towers(towers: dict[str, Any], console: Console) -> None:
    names = list(dict.fromkeys(name for cell in towers["cells"] for name in cell["backends"]))
    heads = ["tower", "threads", "input", "batch", *names, "calls"]
    table = Table(*heads, title="p50, microseconds", title_justify="left", box=None)
    for cell in towers["cells"]:
        told = cell["backends"]
        table.add_row(
            cell["side"],
            str(cell["threads"] or "all"),
            cell["kind"].replace("_", " "),
            str(cell["batch"]),
            *(f"{told[name]['p50_us']:,.0f}" if name in told else "" for name in names),
            str(min(each["iterations"] for each in told.values())),
        )
    console.print(table)
    for name, reason in towers["skipped"].items():
        console.print(f"{name}: not measured, {reason}", highlight=False, markup=False, soft_wrap=True)
