"""Answers, server and load as tables for a person to read."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.answer import Answer
from serving.basis import Basis
from serving.convert import Info
from serving.release_rows import duration, release_rows

WIDTH = 120  # where the output is no terminal
HEADINGS = ("name", "title")  # display fields that come first
RESTS_ON = {
    Basis.CONTEXT: "no known item in the history: this rests on the other features alone",
    Basis.POPULAR: "nothing known in the query: these are the most popular items, "
    "with their share of all interactions",
    Basis.NONE: "nothing known in the query, and no item is more popular than others: no hits",
}


def show_answer(console: Console, answer: Answer) -> None:
    """Hits with rank, score and display fields, then what they rest on and where they come from."""
    identified = all(hit.fields.get("name") == hit.id for hit in answer.hits)
    fields = _field_names(answer)
    rows = [
        {**{name: hit.fields.get(name, "") for name in fields}, **({} if identified else {"id": hit.id})}
        for hit in answer.hits
    ]
    popular = answer.basis is Basis.POPULAR
    scores = [f"{hit.score:.2%}" if popular else f"{hit.score:.4f}" for hit in answer.hits]
    score_width = max(map(len, ["score", *scores, "0.0000"]))
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right", width=4)
    table.add_column("share" if popular else "score", justify="right", width=score_width)
    for name, width in _widths(rows, console.width - 8 - score_width).items():
        table.add_column(name, overflow="ellipsis", no_wrap=True, width=width)
    for rank, (score, row) in enumerate(zip(scores, rows, strict=True), 1):
        table.add_row(str(rank), score, *map(Text, row.values()))
    console.print(table)
    for remark in _remarks(answer):
        console.print(remark, style="yellow", highlight=False)
    timing = answer.timing
    console.print(
        f"bundle {answer.bundle_version[:12]}, queue {timing.queue_us} us, "
        f"encode {timing.encode_us} us, search {timing.search_us} us",
        style="dim",
        highlight=False,
    )


def _remarks(answer: Answer) -> list[str]:
    remarks = [RESTS_ON[answer.basis]] if answer.basis in RESTS_ON else []
    if answer.unknown_history:
        items = "1 item" if answer.unknown_history == 1 else f"{answer.unknown_history} items"
        remarks.append(f"{items} of the history skipped: unknown to the query tower")
    return remarks


def show_vectors(console: Console, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> None:
    """The first coordinates of each vector."""
    rows = {
        text: " ".join(f"{value:+.3f}" for value in vector[:8]) + (" ..." if len(vector) > 8 else "")
        for text, vector in zip(texts, vectors, strict=True)
    }
    show_pairs(console, rows)


def show_info(console: Console, info: Info) -> None:
    """What is being served."""
    rows = {
        "name": info.name,
        "bundle version": info.bundle_version,
        "run": info.run_id,
        "items": f"{info.item_count:,}",
        "dimension": info.dimension,
        "query features": ", ".join(f"{n} ({kind})" for n, kind in info.query_features.items()),
        "display fields": ", ".join(info.display_fields),
        **release_rows(info.state, time.time()),
        **_state_rows(info.state),
    }
    show_pairs(console, {**rows, **vars(info.limits)})


def show_status(console: Console, name: str, state: Mapping[str, Any]) -> None:
    """Which bundles answer, what waits to, and what went wrong.

    Args:
        console: to show it on.
        name: of what is served.
        state: as `Info.state` has it.
    """
    rows = {
        "name": name,
        **release_rows(state, time.time()),
        "workers": _workers(state),
        "uptime": duration(state["uptime_seconds"]),
    }
    show_pairs(console, rows)


def _state_rows(state: Mapping[str, Any]) -> dict[str, str]:
    """The service itself: workers, what they did, what they do, and how it is protected."""
    protection = {"TLS": "tls", "client certificates": "client_certificates", "tokens": "tokens"}
    on = [name for name, key in protection.items() if state[key]]
    rate = f"{state['rate_per_second']:g} queries/s a client" if state["rate_per_second"] else "no bound"
    return {
        "uptime": f"{state['uptime_seconds']:.0f} s",
        "workers": f"{_workers(state)}; this is process {state['worker_pid']}",
        "requests": _counts(state["requests"]),
        "queries": f"{state['queries']:,} answered; refused: {_counts(state['refused'])}",
        "now": f"{state['in_flight']} in flight, {state['queue_depth']} of {state['queue_bound']} queued, "
        f"{state['streams']} streams",
        "protection": ", ".join(on) or "none",
        "rate": rate,
    }


def _workers(state: Mapping[str, Any]) -> str:
    return f"{state['workers_up']} of {state['workers']} up, {state['restarts']} restarts"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())) or "none"


def show_pairs(console: Console, rows: Mapping[str, Any]) -> None:
    """A table of names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows.items():
        table.add_row(Text(name), Text(str(value)))
    console.print(table)


def _widths(rows: Sequence[Mapping[str, str]], room: int) -> dict[str, int]:
    """How wide each field's column is: as its widest value, the widest columns cut to fit the room."""
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in (rows[0] if rows else {})}
    while sum(widths.values()) + 2 * len(widths) > room and max(widths.values()) > 8:
        widest = max(widths, key=lambda name: widths[name])
        widths[widest] -= 1
    return widths


def console() -> Console:
    """Standard output, wide enough to be read where it is a file or a pipe."""
    output = Console()
    return output if output.is_terminal else Console(width=WIDTH)


def _field_names(answer: Answer) -> list[str]:
    """All display fields of the hits, a name or a title first."""
    names = {name for hit in answer.hits for name in hit.fields}
    return sorted(names, key=lambda name: (name not in HEADINGS, name))
