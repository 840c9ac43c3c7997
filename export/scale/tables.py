"""A scale report as a terminal shows it."""

from typing import Any

from rich.console import Console
from rich.table import Table

from export.scale.capacity import at_target
from export.scale.page import busy
from export.scale.wording import about, milliseconds, size


def show(document: dict[str, Any], console: Console) -> None:
    """A row a size, what one machine holds, and where the page is."""
    heads = (
        "items/s encoded",
        "build, s",
        "load, s",
        "serving",
        "recall@10",
        "p50, ms",
        "p99, ms",
        "exact, ms",
    )
    table = Table("items", *heads, box=None)
    for each in document["sizes"]:
        search = each["search"]
        times = [milliseconds(search["graph"][name]) for name in ("p50_us", "p99_us")]
        table.add_row(
            f"{each['items']:,}",
            f"{each['encode']['items_per_s']:,.0f}",
            f"{each['build']['seconds']:,.1f}",
            f"{each['load']['seconds']:.2f}",
            size(each["load"]["rss_bytes"]),
            f"{search['recall']:.4f}",
            *(times if at_target(each) else ["not reached"] * 2),
            milliseconds(search["exact"]["p50_us"]),
        )
    console.print(table)
    vectors = document["vectors"]
    if vectors is None:
        console.print(f"vectors alone: not measured, {document['left_out']}", highlight=False)
    else:
        taken = milliseconds(vectors["exact"]["one_thread_b1"]["p50_us"])
        console.print(f"{vectors['items']:,} int8 vectors, exact: {taken} ms a query", highlight=False)
    for each in (document["capacity"] or {"machines": ()})["machines"]:
        console.print(f"{each['gib']} GiB hold about {about(each['items'])} items", highlight=False)
    warning = busy(document)
    if warning:
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report: {document['page']}", highlight=False, soft_wrap=True)
