"""The bounds that a run must keep to, and the table that shows it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

LEAST = {"good_share_one_connection": 0.99, "good_share_new_connections": 0.97, "good_share_http": 0.97}
MOST = {"rss_peak_ratio": 2.5, "rss_after_ratio": 1.2, "descriptors_left": 0}


def missed(figures: Mapping[str, Any]) -> list[str]:
    """Each bound that the figures do not keep to, in words."""
    low = [(name, "at least", least) for name, least in LEAST.items() if figures[name] < least]
    high = [(name, "at most", most) for name, most in MOST.items() if figures[name] > most]
    found = [f"{name}: expected {text} {bound:g}, got {figures[name]:g}" for name, text, bound in low + high]
    if figures["exit_code"] is not None:
        found.append(f"the service ended by itself with exit code {figures['exit_code']}")
    return found


def show(console: Console, figures: Mapping[str, Any]) -> None:
    """Print the figures."""
    table = Table("figure", "got", "bound", title=f"{figures['seconds']:g} s of attack")
    for sign, bounds in ((">=", LEAST), ("<=", MOST)):
        for name, bound in bounds.items():
            table.add_row(name, f"{figures[name]:g}", f"{sign} {bound:g}")
    shares = ", ".join(f"{name} {share:g}" for name, share in figures["share_of_a_core"].items())
    table.add_row("share of a core", shares, f"of {figures['cores']}")
    table.add_row("searches a second before", f"{figures['calibration_searches_per_second']:g}", "")
    table.add_row("rounds", ", ".join(figures["rounds"]), "")
    console.print(table)
    heads = "calls, answered, worst round, p50 ms, p99 ms, longest gap s, repeats, errors"
    clients = Table("good calls", *heads.split(", "))
    for name in ("one_connection", "new_connections", "over_http"):
        client = figures[name]
        errors = ", ".join(f"{kind} {count}" for kind, count in client["errors"].items())
        columns = ("calls", "answered", "share", "p50_ms", "p99_ms", "longest_gap_seconds")
        repeats = str(client.get("repeats", ""))  # of calls over gRPC its client does not count them
        clients.add_row(name, *(str(client[column]) for column in columns), repeats, errors)
    console.print(clients)
    attackers = Table("attack", "counts")
    for name, counts in figures["attacks"].items():
        attackers.add_row(name, ", ".join(f"{what} {count:,}" for what, count in counts.items()))
    console.print(attackers)
