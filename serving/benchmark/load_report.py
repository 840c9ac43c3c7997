"""The tables of the load test and of the gateway's."""

from rich.console import Console
from rich.table import Table

from serving.benchmark import gateway_test
from serving.benchmark.plan import CLIENTS, OFFERED, SERVERS, TARGETS, Target
from serving.benchmark.report import Report, number, table, with_range, write


def show_load(console: Console, found: Report) -> None:
    """Throughput, latency by offered load, the targets, and remarks."""
    tables = []
    if "search_c1_rps" in found:
        heads = ["clients"]
        for name in SERVERS.values():
            heads += [f"{name} [dim]requests/s[/]", "[dim]p50 / p99 ms[/]"]
        rows = []
        for clients in CLIENTS:
            row = [str(clients)]
            for prefix in (f"{server}_c{clients}" for server in SERVERS):
                row += [with_range(found, f"{prefix}_rps"), f"[dim]{_latencies(found, prefix)}[/]"]
            rows.append(row)
        tables.append(table(heads, rows, "closed loop"))
    if f"search_open{OFFERED[0]}_rps" in found:
        heads = ["load", "offered/s", "answered/s", "in time", "p50 / p99 ms of those answered in time"]
        tables.append(table(heads, (_offered(found, percent) for percent in OFFERED), "open loop"))
    _show(console, found, tables, TARGETS, "targets")


def show_gateway(console: Console, found: Report) -> None:
    """Throughput, latencies and processor time, the ratios, and remarks."""
    rows = []
    for clients in CLIENTS:
        for kind, name in gateway_test.KINDS.items():
            key = f"{kind}_c{clients}"
            figures = with_range(found, f"{key}_rps"), _latencies(found, key), number(found[f"{key}_cpu_us"])
            rows.append((str(clients), name, *figures))
    heads = ("clients", "server", "requests/s", "p50 / p99 ms", "processor us")
    title = "closed loop, all servers on one core" if found["pinned"] else "closed loop"
    _show(console, found, [table(heads, rows, title)], gateway_test.TARGETS, "ratios")


def _show(
    console: Console, found: Report, tables: list[Table], targets: tuple[Target, ...], title: str
) -> None:
    remarks = [*found["notes"], *(f"{count} x {text}" for text, count in found["errors"].items())]
    if found["content_different"]:
        first = found["content_first_difference"]
        remarks.append(f"{found['content_different']} answers differ from the bundle's own: {first}")
    about = (
        f"{found['machine']}; bundle {found['bundle_version'][:12]}; {found['rounds']} rounds of "
        f"{found['seconds']:g} s, medians; {found['distinct_queries']:,} queries; "
        f"{found['content_checked']:,} answers compared"
    )
    write(console, found, tables, targets, remarks, [about], title)


def _offered(found: Report, percent: int) -> tuple[str, ...]:
    prefix = f"search_open{percent}"
    offered, answered = number(found[f"{prefix}_offered_rps"]), with_range(found, f"{prefix}_rps")
    share = found[f"{prefix}_answered_share"]
    in_time = "-" if share is None else f"{100 * share:.1f} %"
    return f"{percent} %", offered, answered, in_time, _latencies(found, prefix)


def _latencies(found: Report, prefix: str) -> str:
    figures = (found[f"{prefix}_{percentile}_us"] for percentile in ("p50", "p99"))
    return " / ".join("-" if each is None else f"{each / 1000:.2f}" for each in figures)
