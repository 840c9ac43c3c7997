"""A bench on the terminal: its figures with intervals, and each backend of the towers in each case."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from twinspire.export.benchmark.figures import SERVED, shown
from twinspire.protos.system.timing import p99_remark

BUSY = 0.95  # share of its time that one thread had a processor; below it, other processes used the machine
MAIN = (  # figures, in the order of the table
    "torch_over_onnx_b1",
    "query_tower_b1_p50_us",
    "query_tower_b1_p99_us",
    "query_tower_b32_p50_us",
    "item_tower_b32_p50_us",
    "retriever_b1_p50_us",
    "retriever_b1_p99_us",
    "load_s",
    "start_s",
)
CASE = ("tower", "threads", "batch")

Document = Mapping[str, Any]


def show(document: Document, console: Console) -> None:
    """Print the tables, what makes the figures uncertain, and the machine."""
    console.print(_table(("figure", "", "95 %"), _figures(document), left=1))
    if "towers" in document:
        cells = document["towers"]["cells"]
        backends = list(dict.fromkeys(name for cell in cells for name in cell["backends"]))
        title = "p50, microseconds"
        console.print(_table((*CASE, *backends, "calls"), _cases(cells, backends), left=1, title=title))
    machine = document["machine"]
    where = f"on {machine['processor']}, {machine['cores']} cores; run {document['run_id']}"
    for text in filter(None, (_busy(document), p99_remark(_calls(document)), where)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _figures(document: Document) -> Iterator[Sequence[str]]:
    """Name, value and interval of each main figure that was measured."""
    metrics, intervals = document["metrics"], document["intervals"]
    for name in MAIN:
        if name in metrics:
            ends = " to ".join(shown(name, end) for end in intervals.get(name, ()))
            yield name, shown(name, metrics[name]), ends


def _cases(cells: Iterable[Document], backends: Sequence[str]) -> Iterator[Sequence[str]]:
    """Case, p50 of each backend in microseconds, and number of calls."""
    for cell in cells:
        times = (f"{cell['backends'][name]['p50_us']:,.0f}" for name in backends)
        case = cell["side"], str(cell["threads"] or "all"), str(cell["batch"])
        yield *case, *times, str(cell["backends"][SERVED]["iterations"])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int, title: str = "") -> Table:
    """A table; `left` is the number of columns from the left that hold words, not numbers."""
    table = Table(box=None, title=title or None, title_justify="left")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < left else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _busy(document: Document) -> str:
    """A warning where one thread had a processor for less than `BUSY` of its time; else empty."""
    share = document.get("towers", {}).get("on_processor")
    if share is None or share >= BUSY:
        return ""
    text = f"the machine was busy: one thread had a processor for {share:.0%} of its time"
    return f"{text}, so long calls look slower than they are"


def _calls(document: Document) -> dict[str, int]:
    """Number of calls of the served query tower, alone and on one thread, and queries of the retriever."""
    found = {}
    for cell in document.get("towers", {}).get("cells", ()):
        if (cell["side"], cell["threads"], cell["batch"]) == ("query", 1, 1):
            found["query tower"] = cell["backends"][SERVED]["iterations"]
    if "retriever" in document:
        found["retriever"] = document["retriever"]["queries"]
    return found
