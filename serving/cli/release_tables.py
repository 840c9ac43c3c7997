"""Tables of a release: the gates of the champion, and the promotions and rollbacks of its model."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from protos.cli import printable
from serving.cli.tables import cell, duration
from serving.wire.converters import Releases

NONE = "–"
ACTOR_WIDTH = 28  # characters


def show_releases(console: Console, found: Releases, now: float) -> None:
    """Show the gates of the version that is served, and the newest records of its model, newest first.

    Args:
        now: Unix time.
    """
    version = f"version {found.model_version}, " if found.model_version else ""
    _print_line(console, f"champion: {version}bundle {found.bundle_version[:12]}")
    if not found.model:
        what = "a fixed version" if found.model_version else "a folder"
        _print_line(console, f"served from {what}, so no alias is followed: no promotions to show")
        return
    if found.promotion:
        _print_line(console, promoted(found.promotion))
        if found.promotion["gates"]:
            console.print(_gates(found.promotion))
        for gate in found.promotion["gates"]:
            if gate["warning"]:
                _print_line(console, f"{gate['title'] or gate['name']}: {gate['warning']}", "yellow")
    elif found.read_at:
        _print_line(console, "no record of its promotion was found, and so no gates")
    if found.records:
        console.print(_records(found))
    elif found.read_at:
        _print_line(console, f"{found.model}: no record of a move of the champion was found")
    _print_line(
        console,
        f"read {duration(max(0.0, now - found.read_at))} ago"
        if found.read_at
        else "not read for this version yet",
        "dim",
    )
    if found.last_error:
        _print_line(console, f"last error: {found.last_error}", "yellow")


def promoted(promotion: Mapping[str, Any]) -> str:
    """The promotion in one sentence: `version 3 was promoted at ... UTC: all 11 gates held`."""
    gates = promotion["gates"]
    failed = [gate for gate in gates if not gate["holds"]]
    if not gates:
        held = "without gates"
    elif failed:
        held = f"although {len(failed)} of {len(gates)} gates did not hold"
    else:
        held = "its gate held" if len(gates) == 1 else f"all {len(gates)} gates held"
        if promotion["action"] == "force":
            held += ", but not everything could be compared"
    verb = "promoted by force" if promotion["action"] == "force" else "promoted"
    return f"version {promotion['after']} was {verb} at {_time(promotion['at'])} UTC: {held}"


def _gates(promotion: Mapping[str, Any]) -> Table:
    figure, bound = (Column(name, justify="right") for name in ("figure", "bound"))
    table = Table("gate", figure, bound, "outcome", box=None, pad_edge=False)
    for gate in promotion["gates"]:
        outcome = Text("pass", "green") if gate["holds"] else Text("overridden", "bold red")
        table.add_row(cell(gate["title"] or gate["name"]), *map(cell, shown(gate)), outcome)
    return table


def shown(gate: Mapping[str, Any]) -> tuple[str, str]:
    """Figure and bound with their units, or as numbers where the record has no texts."""

    def text(words: str, number: float | None) -> str:
        return words or (NONE if number is None else f"{number:g}")

    return text(gate["shown_figure"], gate["figure"]), text(gate["shown_bound"], gate["bound"])


def _records(found: Releases) -> Table:
    who = Column("who", max_width=ACTOR_WIDTH, no_wrap=True, overflow="ellipsis")
    table = Table("", "when (UTC)", who, "action", "from", "to", "why", box=None, pad_edge=False)
    for record in found.records:
        ended = "" if record["outcome"] == "done" else f", {record['outcome']}"
        failed = [gate["title"] or gate["name"] for gate in record["gates"] if not gate["holds"]]
        reasons = [record["reason"], f"did not hold: {', '.join(failed)}" if failed else ""]
        table.add_row(
            str(record["number"]),
            cell(_time(record["at"])),
            cell(record["actor"]),
            cell(record["action"] + ended),
            cell(record["before"] or "none"),
            cell(record["after"]),
            cell("; ".join(filter(None, reasons))),
        )
    return table


def _time(at: str) -> str:
    """A time of the registry in UTC; a text that is no time stays as it is."""
    try:
        return f"{datetime.fromisoformat(at).astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return at


def _print_line(console: Console, text: str, style: str = "") -> None:
    console.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=True)
