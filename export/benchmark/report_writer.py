"""One list of parts becomes the page of a bench and its terminal output."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

from twinspire.export.benchmark import LIBRARIES
from twinspire.protos.bundle import write_file
from twinspire.protos.system.machine import machine, versions
from twinspire.train.markdown import code, plain, table
from twinspire.train.plots import save
from twinspire.train.training.tracking import git_commit

BUSY = 0.95  # share of its time that one thread had a processor; below it, other processes used the machine

Document = Mapping[str, Any]


class Column(NamedTuple):
    """A column of a table."""

    head: str
    path: str  # of the figure in a row, as in `value`
    text: Callable[[Any], str] = str  # the figure as text; a missing one is left empty
    alignment: str = "r"  # `l` left, `r` right, `c` left, as code on a page


class ReportTable(NamedTuple):
    """A line for each of the rows, which are documents; `title` is for the terminal."""

    columns: Sequence[Column]
    rows: Sequence[Document]
    title: str = ""

    def cells(self) -> list[list[str]]:
        """The texts, row by row; they are our own words and numbers."""
        figures = [[(column, value(row, column.path)) for column in self.columns] for row in self.rows]
        return [["" if each is None else column.text(each) for column, each in row] for row in figures]


class Lines(NamedTuple):
    """Untrusted lines of text, without the empty ones: a list on a page. `style` is that of the terminal."""

    texts: Sequence[str]
    style: str | None = None


class Picture(NamedTuple):
    """A plot, for the page only: a file beside it."""

    name: str
    text: str
    draw: Callable[[], Figure]


Part = str | ReportTable | Lines | Picture  # a string is a paragraph in Markdown, which is for the page only


def page_of(parts: Iterable[Part]) -> str:
    """The parts as Markdown; empty ones are left out."""
    texts = map(_markdown, parts)
    return "\n\n".join(text for text in texts if text) + "\n"


def _markdown(part: Part) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Picture):
        return f"![{part.text}]({part.name})"
    if isinstance(part, Lines):
        return "\n".join(f"- {plain(text)}" for text in part.texts if text)
    alignment = "".join(column.alignment for column in part.columns)
    rows = [
        [code(cell) if kind == "c" else cell for cell, kind in zip(row, alignment, strict=True)]
        for row in part.cells()
    ]
    return table([column.head for column in part.columns], rows, alignment) if rows else ""


def show_parts(parts: Iterable[Part], console: Console) -> None:
    """Print the tables and lines among the parts."""
    for part in parts:
        if isinstance(part, ReportTable) and part.rows:
            made = RichTable(box=None, title=part.title or None, title_justify="left")
            for column in part.columns:
                made.add_column(column.head, justify="right" if column.alignment == "r" else "left")
            for row in part.cells():
                made.add_row(*row)
            console.print(made)
        elif isinstance(part, Lines):
            for text in filter(None, part.texts):
                console.print(text, style=part.style, highlight=False, markup=False, soft_wrap=True)


def write_page(path: Path, parts: Sequence[Part]) -> list[Path]:
    """Write a page and the pictures beside it; returns all paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = [part for part in parts if isinstance(part, Picture)]
    pictures = [save(each.draw(), path.with_name(each.name)) for each in found]
    write_file(path, page_of(parts).encode())
    return [path, *pictures]


def value(document: Any, path: str) -> Any:
    """A figure by the keys to it, such as `build.seconds`; None if it is missing."""
    for key in path.split("."):
        document = document.get(key) if document is not None else None
    return document


def whole(number: float) -> str:
    """A number without digits after the point."""
    return f"{number:,.0f}"


def environment() -> dict[str, Any]:
    """When, by which commit, where and with which versions a report was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "measured_by": git_commit(),
        "machine": machine(),
        "versions": versions(LIBRARIES),
    }


def where(document: Document, more: str) -> str:
    """The environment as Markdown, and `more`, which is Markdown."""
    found = document["machine"]
    memory = f"{size(found['memory_bytes'])} of memory, " if "memory_bytes" in found else ""
    names = ", ".join(plain(f"{name} {version}") for name, version in document["versions"].items())
    return (
        f"On {plain(found['processor'])} with {found['cores']} cores, {memory}{plain(found['system'])}; "
        f"{names}. {plain(document['at'])}, commit {code(document['measured_by'] or '–')}. {more}"
    )


def busy(share: float) -> Lines:
    """A warning where one thread had a processor for less than `BUSY` of its time, else nothing."""
    text = f"the machine was busy: one thread had a processor for {share:.0%} of its time"
    return Lines([f"{text}, so long calls look slower than they are" if share < BUSY else ""], "yellow")


def size(bytes_: float | None) -> str:
    """Bytes in megabytes or gigabytes (10^6, 10^9)."""
    if bytes_ is None:
        return "–"
    if bytes_ < 1e9:
        return f"{bytes_ / 1e6:.1f} MB" if bytes_ < 1e7 else f"{bytes_ / 1e6:,.0f} MB"
    return f"{bytes_ / 1e9:,.2f} GB" if bytes_ < 1e11 else f"{bytes_ / 1e9:,.0f} GB"
