"""What the page says of one machine, and of where it ends: every number follows from what was measured."""

from collections.abc import Mapping
from typing import Any

from export.markdown import table
from export.scale.capacity import USABLE, at_target
from export.scale.measuring.subject import DIMENSION
from export.scale.wording import about, duration, milliseconds, share, size

Document = Mapping[str, Any]
WIDE = "512"


def parts(document: Document) -> list[str]:
    """Headings and texts, from memory to the day that a vector database should take over."""
    capacity = document["capacity"]
    if capacity is None:
        return ["## One machine", "It takes two sizes to say how much one machine holds."]
    largest = document["laws"]["largest"]
    return [
        "## One machine",
        _memory(capacity, largest),
        _beyond(capacity["at"], document["vectors"], largest),
        "## Rebuilding",
        _rebuilding(capacity, largest),
        "## When a vector database should take over",
        "One machine ends at any of these:",
        _ends(document, capacity, largest),
    ]


def _marked(text: str, items: float, largest: int) -> str:
    return f"{text}\\*" if items > largest else text


def _memory(capacity: Document, largest: int) -> str:
    rows = []
    for each in capacity["machines"]:
        items = each["items"]
        cells = [f"{each['gib']} GiB"]
        cells += [
            _marked(about(each[k]), each[k], largest) for k in ("items", "items_beside_another", "items_wide")
        ]
        cells += [_marked(duration(each[k]), items, largest) for k in ("build_s", "rebuild_s")]
        rows.append(cells)
    heads = ["memory", f"items, D = {DIMENSION}", "with a swap under load", f"items, D = {WIDE}"]
    heads += [f"building the graph, D = {DIMENSION}", "everything"]
    each = capacity["bytes_an_item"]
    return (
        f"An item takes {each[str(DIMENSION)]:,.0f} bytes of a process that serves at D = {DIMENSION}, "
        f"{capacity['graph_bytes_an_item']:,.0f} of them in the graph and {4 * DIMENSION} in the vectors' "
        f"file, the rest in ids and texts; scaled to D = {WIDE} it is {each[WIDE]:,.0f}. "
        f"{capacity['usable']:.0%} of the memory is counted. While a bundle is swapped under load, there are "
        "two.\n\n"
        + table(heads, rows, "rrrrrr")
        + f"\n\n\\* Extrapolated: the largest size measured has {largest:,} items. “Everything” is encoding, "
        "building and loading, on the cores of this machine; the more cores, the less. Building takes "
        f"{capacity['building_bytes_an_item']:,.0f} bytes an item at its peak."
    )


def _beyond(at: Document | None, vectors: Document | None, largest: int) -> str:
    """The graph at the number of vectors that were searched without one."""
    if at is None or vectors is None or at["items"] <= largest:
        return ""
    p50 = "" if at["p50_us"] is None else f" and a query {milliseconds(at['p50_us'])} ms at p50"
    plain = vectors["exact"]
    return (
        f"{at['items']:,} items with a graph would take {size(at['serving_bytes'])} to serve, "
        f"{size(at['building_bytes'])} and {duration(at['build_s'])} to build{p50}: all of that is "
        f"extrapolated. Measured without a graph are {size(plain['rss_bytes'])} and "
        f"{milliseconds(plain['one_thread_b1']['p50_us'])} ms."
    )


def _rebuilding(capacity: Document, largest: int) -> str:
    rows = [
        [duration(each["seconds"]), _marked(about(each["items"]), each["items"], largest)]
        for each in capacity["within"]
    ]
    seconds = capacity["rebuild_s"]
    return (
        "A bundle takes no writes: what is new is found after the next rebuild. From a table of items to a "
        f"service that answers from it takes {duration(seconds)} at {largest:,} items. So where new items "
        "must be found within\n\n"
        + table(["", "the catalogue may have, items"], rows, "rr")
        + f"\n\nAt one write a second {about(seconds)} items wait for a rebuild of {largest:,}, which is "
        f"{share(seconds / largest)} of them. The graph itself would take {capacity['inserts_per_s']:,.0f} "
        "writes a second on these cores; it is the immutable bundle that does not."
    )


def _ends(document: Document, capacity: Document, largest: int) -> str:
    biggest = capacity["machines"][-1]
    fresh, hour, day = capacity["within"]

    def items(each: Document, key: str = "items") -> str:
        return _marked(about(each[key]), each[key], largest)

    lines = [
        f"**Writes**, more than one a second, that must be found soon. Up to {items(fresh)} items a rebuild "
        f"takes {duration(fresh['seconds'])} or less, and {fresh['seconds']:,.0f} writes wait for it; from "
        f"{items(hour)} items on it takes an hour, and {hour['seconds']:,.0f} wait.",
        f"**Rebuilding.** From {items(day)} items on it does not fit into a working day of "
        f"{duration(day['seconds'])}.",
        f"**Memory.** {biggest['gib']} GiB are full with {items(biggest)} items at D = {DIMENSION}, or "
        f"{items(biggest, 'items_wide')} at D = {WIDE}; with half of that where bundles are swapped under "
        "load. A database spreads a catalogue over machines, while here each replica holds all of it.",
        f"**Filters** by attributes. {_filters(document, capacity, largest)}",
        f"**Queries.** {_queries(document, largest)}",
    ]
    ranked = "\n".join(f"- {each}" for each in lines)
    return f"{ranked}\n\n{_in_short(document, capacity, largest)}"


def _in_short(document: Document, capacity: Document, largest: int) -> str:
    """The first of the ends that a catalogue meets on the machine that was measured."""
    _, hour, _ = capacity["within"]
    held = USABLE * document["machine"]["memory_bytes"] / capacity["bytes_an_item"][str(DIMENSION)] / 2
    first = min(held, hour["items"])
    why = "two bundles fill its memory" if held < hour["items"] else "a rebuild takes an hour"
    return (
        f"In short: this machine, with its {document['machine']['cores']} cores, is enough up to "
        f"{_marked(about(first), first, largest)} items, where {why}, as long as writes can wait for the "
        "rebuild and most queries carry no filter. Beyond that comes a larger machine, up to the ends above, "
        "and then a database such as Milvus."
    )


def _filters(document: Document, capacity: Document, largest: int) -> str:
    last = document["sizes"][-1]
    if not at_target(last):
        return "What they cost is not known, as the recall is not reached."
    told = ", ".join(
        f"{milliseconds(each['p50_us'])} ms where {share(each['share'])} of the items pass "
        f"({each['ratio']:.1f} times a query without)"
        for each in capacity["filters"]
    )
    exact = milliseconds(last["search"]["exact"]["p50_us"])
    return (
        f"The service has none. Applied to what a search has found, they take at least {told} at {largest:,} "
        f"items, and where fewer than {share(capacity['exact_from_share'])} pass {exact} ms, as exact search "
        "does. A database filters while it searches."
    )


def _queries(document: Document, largest: int) -> str:
    last = document["sizes"][-1]
    if not at_target(last):
        return "How many a thread answers is not known, as the recall is not reached."
    return (
        f"A thread searches for {last['search']['graph_batch']['queries_per_s']:,.0f} a second at "
        f"{largest:,} items. More than the cores of a machine bear takes replicas, each of which holds "
        f"{size(last['load']['rss_bytes'])} of its own: no reason for a database as long as that is cheap."
    )
