"""Figures of rounds, and the report writer and progress bar of all tests."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from tests.load.load import LoadResult, Tick
from tests.load.plan import Target
from twinspire.protos.system.machine import machine

Report = Mapping[str, Any]


class Figures:
    """Named values, one for each round."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self.calls: dict[str, int] = {}  # prefix of a p99 -> the fewest calls of any round that it is of

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def add_calls(self, prefix: str, result: LoadResult) -> None:
        values = {"rps": result.rps, "p50_us": result.percentile_us(50), "p99_us": result.percentile_us(99)}
        self.add(**{f"{prefix}_{name}": value for name, value in values.items()})
        self.count_calls(prefix, result)

    def count_calls(self, prefix: str, result: LoadResult) -> None:
        """Count the calls that a p99 is of."""
        count = len(result.latencies)
        self.calls[prefix] = min(count, self.calls.get(prefix, count))

    def median(self, name: str) -> float:
        """The median over the rounds; NaN without values."""
        values = self._measured(name)
        return statistics.median(values) if values else math.nan

    def _measured(self, name: str) -> list[float]:
        """The values without NaN, of rounds in which the figure could be measured."""
        return [each for each in self._values.get(name, ()) if not math.isnan(each)]

    def divide(self, name: str, numerator: str, *denominators: str) -> None:
        """Add the ratio of a figure to the sum of others for each round where all were measured."""
        self.combine(
            name,
            lambda above, *below: above / sum(below) if sum(below) else math.nan,
            numerator,
            *denominators,
        )

    def combine(self, name: str, function: Callable[..., float], *names: str) -> None:
        """Add a function of figures for each round where all were measured."""
        columns = [self._values.get(each, []) for each in names]
        for values in zip(*columns, strict=False):
            self.add(**{name: function(*values)})

    def document(self) -> dict[str, float | None]:
        """Each name's median, and `_min` and `_max` where there are several rounds; None for NaN."""
        found: dict[str, float | None] = {}
        for name, values in self._values.items():
            found[name] = rounded(self.median(name))
            if len(values) > 1:
                known = self._measured(name) or [math.nan]
                found[f"{name}_min"], found[f"{name}_max"] = rounded(min(known)), rounded(max(known))
        return found


def rounded(value: float) -> float | None:
    """Five significant digits; None for NaN, which JSON does not have."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def machine_text() -> str:
    """Processor and operating system."""
    found = machine()
    return f"{found['processor']}, {found['system']}"


class Table(NamedTuple):
    """A table of a report: a line for each prefix of figures that were measured."""

    title: str
    heads: Sequence[str]  # of all columns
    rows: Mapping[str, Sequence[str]]  # prefix of the figures -> texts of the first columns
    # Of the other columns: the key of a figure, with `{}` for the prefix, or its text by report and prefix.
    cells: Sequence[str | Callable[[Report, str], str]]

    def lines(self, report: Report) -> list[list[str]]:
        key = next(each for each in self.cells if isinstance(each, str))
        lines = []
        for prefix, texts in self.rows.items():
            if key.format(prefix) in report:
                cells = (
                    with_range(report, each.format(prefix)) if isinstance(each, str) else each(report, prefix)
                    for each in self.cells
                )
                lines.append([*texts, *cells])
        return lines


def show(
    console: Console,
    report: Report,
    tables: Iterable[Table],
    targets: Iterable[Target],
    about: Iterable[str],
    remarks: Iterable[str] = (),
    title: str | None = None,
) -> None:
    """Print tables, figures beside their targets under `title`, remarks, and what was measured, and how.

    Errors and wrong answers that the report holds come before the `remarks`.
    """
    for each in tables:
        if lines := each.lines(report):
            console.print(table(each.heads, lines, each.title or None), "")
    rows = []
    for target in targets:
        if target.key in report:
            met = target.is_met(report)
            verdict = {True: Text("met", "green"), False: Text("missed", "red"), None: ""}[met]
            bound = f"{target.sign} {target.bound:g}" if target.sign else ""
            rows.append((target.text, bound, with_range(report, target.key), verdict))
    if rows:
        console.print(table(("figure", "target", "measured", ""), rows, title))
    faults = [*report.get("notes", ()), *(f"{n} x {text}" for text, n in report.get("errors", {}).items())]
    if report.get("content_different"):
        first = report["content_first_difference"]
        faults.append(f"{report['content_different']} answers differ from the bundle's own: {first}")
    for style, texts in (("yellow", [*faults, *remarks]), ("dim", about)):
        for text in texts:  # may hold brackets or paths
            console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> RichTable:
    """A table without lines; columns after the first are right-aligned, those without a head excepted."""
    made = RichTable(box=None, pad_edge=False, title=title, title_justify="left")
    for n, head in enumerate(heads):
        made.add_column(head, justify="right" if n and head else "left")
    for row in rows:
        made.add_row(*row)
    return made


def with_range(report: Report, key: str) -> str:
    """A figure with the lowest and highest round."""
    text = number(report[key])
    if f"{key}_min" not in report:
        return text
    return f"{text} [dim]{number(report[f'{key}_min'])}-{number(report[f'{key}_max'])}[/]"


def latencies(found: Report, prefix: str) -> str:
    """p50 and p99 in milliseconds."""
    figures = (found[f"{prefix}_{percentile}_us"] for percentile in ("p50", "p99"))
    return " / ".join("-" if each is None else f"{each / 1000:.2f}" for each in figures)


def number(value: float | None) -> str:
    """Three significant digits; `-` for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@contextmanager
def progress(seconds: float) -> Iterator[tuple[Callable[[str], None], Tick]]:
    """A progress bar on stderr.

    It is redrawn only on calls: a thread that redraws it would take the interpreter from the load.

    Yields:
        A function that shows what is being measured, and one that redraws the bar once a second.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("load", total=seconds)
        begun = drawn = time.monotonic()

        def say(text: str | None = None) -> None:
            nonlocal drawn
            drawn = time.monotonic()
            bar.update(task, description=text, completed=min(drawn - begun, seconds), refresh=True)

        def tick() -> None:
            if time.monotonic() > drawn + 1:
                say()

        yield say, tick
