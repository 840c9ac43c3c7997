"""Answers and the state of a server as tables."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from twinspire.protos.cli import printable
from twinspire.protos.nearest.scores import PARTS
from twinspire.serving.retrieval.answer import Answer, Basis, FusionMode

WIDTH = 120  # if the output is not a terminal
AGES = ("last_check_seconds_ago", "next_check_in_seconds", "last_swap_seconds_ago")
HEADINGS = ("name", "title")  # display fields that come first
REMARKS = {
    Basis.CONTEXT: "no known item in the history: the answer is based on other features or the time",
    Basis.POPULAR: "nothing known in the query: these are the most popular items, "
    "with their share of all interactions",
    Basis.NONE: "nothing known in the query, and no item is more popular than others: no hits",
}


def cell(value: object) -> Text:
    """A cell of a table: a text of a service as one line, without control characters."""
    return Text(printable(str(value)))


def show_answer(console: Console, answer: Answer) -> None:
    """Show hits with rank, score and display fields, then their basis, bundle and timing."""
    popular = answer.basis is Basis.POPULAR
    is_fused = answer.fusion in (FusionMode.HYBRID, FusionMode.LEXICAL)
    parts = [
        name for name in PARTS if is_fused and any(getattr(hit, name) is not None for hit in answer.hits)
    ]
    names = {name for hit in answer.hits for name in hit.fields}
    fields = sorted(names, key=lambda name: (name not in HEADINGS, name))  # a name or a title first
    has_ids = any(hit.fields.get("name") != hit.id for hit in answer.hits)
    table = Table(box=None, pad_edge=False)
    for name in ("rank", "share" if popular else "score"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in parts:
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    for name in (*fields, *(["id"] if has_ids else [])):
        table.add_column(cell(name))
    for rank, hit in enumerate(answer.hits, 1):
        texts = [hit.fields.get(name, "") for name in fields] + ([hit.id] if has_ids else [])
        score = f"{hit.score:.2%}" if popular else f"{hit.score:.4f}"
        shares = [f"{getattr(hit, name) or 0:.4f}" for name in parts]
        cells = [Text(printable(text), no_wrap=True, overflow="ellipsis") for text in texts]
        table.add_row(str(rank), score, *shares, *cells)
    console.print(table)
    if answer.weak and answer.basis.is_searched:  # the other bases have remarks of their own
        console.print("nothing matches well", style="yellow")
    if answer.basis in REMARKS:
        console.print(REMARKS[answer.basis], style="yellow")
    if skipped := answer.unknown_history:
        items = "1 item" if skipped == 1 else f"{skipped} items"
        text = f"{items} of the history skipped: unknown to the query tower"
        console.print(text, style="yellow")
    timing = answer.timing
    console.print(
        f"bundle {printable(answer.bundle_version[:12])}, queue {timing.queue_us} us, "
        f"encode {timing.encode_us} us, search {timing.search_us} us",
        style="dim",
    )


def show_document(console: Console, document: Mapping[str, Any]) -> None:
    """Show a document of JSON as names and values; inner ones have names such as `following.last_error`."""
    show_pairs(console, dict(_flat("", document)))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The values in a value of JSON, each with its name, as texts."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for n, inner in enumerate(value):
            yield from _flat(f"{name}[{n}]", inner)
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(str, value)) or "none"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    else:
        yield name, "none" if value is None or value == "" else str(value)


def show_pairs(console: Console, rows: Mapping[str, Any]) -> None:
    """Show a table of names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows.items():
        table.add_row(cell(name), cell(value))
    console.print(table)


def console() -> Console:
    """Standard output, with a fixed width if it is a file or a pipe."""
    output = Console(highlight=False, markup=False)
    return output if output.is_terminal else Console(width=WIDTH, highlight=False, markup=False)


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; yields the function that takes how much is done, and shows it from its first call."""
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.completed:,}"), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(title, total=total)

    def tick(done: int) -> None:
        bar.start()
        bar.update(task, completed=done)

    try:
        yield tick
    finally:
        if bar.live.is_started:
            bar.stop()


def ages(following: Mapping[str, Any], now: float) -> dict[str, float | None]:
    """Seconds since the last check, until the next, and since the last swap; None if there is none.

    The times are by the server's clock, which may differ from this one; the result is never below 0.
    """
    last, due, swap = (following.get(name) or 0.0 for name in ("last_check", "next_check", "last_swap"))
    values = (now - last if last else None, due - now if due else None, now - swap if swap else None)
    return {
        name: None if value is None else max(0.0, value) for name, value in zip(AGES, values, strict=True)
    }
