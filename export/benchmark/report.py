"""A bench as one document, and as files: JSON, and a page with plots; the terminal shows its tables, too."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from twinspire.export.ann import frontier
from twinspire.export.benchmark import report_writer as writer
from twinspire.export.benchmark.comparison import DOCUMENT, Budget, changes
from twinspire.export.benchmark.figures import SERVED, Figures, MeasuredBundle, shown
from twinspire.export.benchmark.latency_inputs import AS_IS
from twinspire.export.benchmark.retriever import FIGURES as RETRIEVER_FIGURES
from twinspire.protos.bundle import write_file
from twinspire.protos.features import SIDES
from twinspire.protos.system.timing import p99_remark
from twinspire.train.markdown import code, plain

PAGE = "report.md"
MAIN = (  # figures, in the order of the reports
    "torch_over_onnx_b1",
    "query_tower_b1_p50_us",
    "query_tower_b1_p99_us",
    "query_tower_b32_p50_us",
    "item_tower_b32_p50_us",
    "retriever_b1_p50_us",
    "retriever_b1_p99_us",
    "build_over_bare",
    "load_s",
)
TOWERS = (
    "Backends of a row take short turns in one process. Inputs: unchanged records of the data, texts of 20 "
    "characters (short) or of the tower's largest length (long), histories of a given length. `served` is "
    "the file in the bundle. Intervals are 95 % bootstrap intervals over turns; p99 is of single calls, "
    "with interruptions by the system."
)
RETRIEVER = (
    "The time of a query is the median of several calls, and a percentile the median of those of rounds. "
    "`load_s` is the time to verify, load and warm up, `start_s` that since the process began."
)
CHANGES = (
    "An asterisk marks a change whose intervals do not overlap; times only where no other process used the "
    "machine. Two benches of the same bundle can differ by more."
)
FIGURES = (
    writer.Column("figure", "name", alignment="c"),
    writer.Column("", "figure"),
    writer.Column("95 %", "interval"),
    writer.Column("change", "change"),
)
CASES = (
    writer.Column("tower", "side", alignment="l"),
    writer.Column("threads", "threads", lambda threads: str(threads or "all")),
    writer.Column("input", "kind", lambda kind: kind.replace("_", " "), "l"),
    writer.Column("batch", "batch"),
)

Document = dict[str, Any]


def document_of(
    bundle: MeasuredBundle,
    figures: Figures,
    parts: Document,
    budgets: Sequence[Budget],
    before: Document | None,
) -> Document:
    """The whole bench, ready for JSON; `before` is the document of the previous one."""
    manifest, previous = bundle.manifest, None
    if before is not None:
        busy = min(on_processor(parts), on_processor(before)) < writer.BUSY
        about = ("run_id", "at", "bundle_version", "versions", "chosen")
        previous = {name: before.get(name) for name in about}
        previous["changes"] = changes(figures, before, MAIN, busy)
    return {
        "name": manifest.name,
        "bundle": str(bundle.folder),
        "bundle_version": manifest.bundle_version,
        "git_commit": manifest.git_commit,
        **writer.environment(),
        "chosen": {side: bundle.variant(side) for side in SIDES},
        **parts,
        "metrics": figures.metrics,
        "intervals": {name: [each.low, each.high] for name, each in figures.estimates.items()},
        "main": [name for name in MAIN if name in figures.metrics],
        "budgets": [each._asdict() for each in budgets],
        "previous": previous,
    }


def on_processor(document: Mapping[str, Any]) -> float:
    """The share of its time that one thread had a processor, while the towers were measured."""
    share: float | None = document.get("towers", {}).get("on_processor")
    return 1.0 if share is None else share


def write(document: Document, folder: Path) -> list[Path]:
    """Write `latency.json`, `report.md` and the plots of the measured parts."""
    files = writer.write_page(folder / PAGE, parts_of(document))
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_file(folder / DOCUMENT, f"{text}\n".encode())
    return [folder / DOCUMENT, *files]


def show(document: Document, console: Console) -> None:
    """The tables of the page, budgets, warnings, and where the page is."""
    machine = document["machine"]
    end = [f"on {machine['processor']}, {machine['cores']} cores", f"report: {document['report']}"]
    writer.show_parts([*parts_of(document), writer.Lines(end)], console)


def parts_of(document: Document) -> list[writer.Part]:
    """The content of page and terminal."""
    chosen = ", ".join(f"{plain(side)} tower {code(name)}" for side, name in document["chosen"].items())
    served = f"Served: {chosen}. Commit of the bundle: {code(document['git_commit'][:12] or '–')}."
    judged = document["budgets"]
    parts: list[writer.Part] = [
        f"# {plain(document['name'])}: bench of bundle {code(document['bundle_version'][:12])}",
        writer.where(document, served),
        writer.busy(on_processor(document)),
        writer.Lines([f"over budget: {each['text']}" for each in judged if not each["holds"]], "red"),
        writer.Lines([f"within budget: {each['text']}" for each in judged if each["holds"]]),
        _figures_table(document, document["main"]),
        writer.Lines([p99_remark(_calls(document))]),
    ]
    if previous := document["previous"]:
        about = f"{previous['at']}, {previous['bundle_version'][:12]}, run {previous['run_id']}"
        parts += [writer.Lines([f"* intervals do not overlap; before: {about}"]), CHANGES]
    else:
        parts.append("No earlier bench of this name on this machine can be read.")
    sections = {"towers": _towers, "retriever": _retriever, "index": _index}
    for name, section in sections.items():
        if name in document:
            parts += section(document)
    return parts


def _figures_table(document: Document, names: Sequence[str]) -> writer.ReportTable:
    """Figures with intervals, and the changes of main figures against the previous bench."""
    intervals, changed = document["intervals"], (document["previous"] or {}).get("changes", {})
    rows = []
    for name in names:
        row = {"name": name, "figure": shown(name, document["metrics"][name])}
        if name in intervals:
            row["interval"] = " to ".join(shown(name, end) for end in intervals[name])
        if name in changed:
            row["change"] = f"{changed[name]['percent']:+.1f} %{' *' if changed[name]['apart'] else ''}"
        rows.append(row)
    return writer.ReportTable(FIGURES if changed else FIGURES[:-1], rows)


def _calls(document: Document) -> dict[str, int]:
    """Number of calls of the served query tower, alone and on one thread, and queries of the retriever."""
    found = {}
    for cell in document.get("towers", {}).get("cells", ()):
        if (cell["side"], cell["threads"], cell["batch"], cell["kind"]) == ("query", 1, 1, AS_IS):
            found["query tower"] = cell["backends"][SERVED]["iterations"]
    if "retriever" in document:
        found["retriever"] = document["retriever"]["queries"]
    return found


def _towers(document: Document) -> list[writer.Part]:
    """p50 of every backend in every case."""
    cells = document["towers"]["cells"]
    backends = dict.fromkeys(name for cell in cells for name in cell["backends"])
    columns = [*CASES, *(writer.Column(name, f"backends.{name}.p50_us", writer.whole) for name in backends)]
    columns.append(writer.Column("calls", f"backends.{SERVED}.iterations"))
    return [
        "## Towers",
        TOWERS,
        writer.ReportTable(columns, cells, "p50, microseconds"),
    ]


def _retriever(document: Document) -> list[writer.Part]:
    found = document["retriever"]
    about = f"{found['queries']:,} queries, one at a time, k = {found['k']}, one thread."
    return [
        "## Retriever",
        f"{about} {RETRIEVER}",
        _figures_table(document, list(RETRIEVER_FIGURES)),
    ]


def _index(document: Document) -> list[writer.Part]:
    found, tuned = document["index"], document["index"]["tuned"]
    about = f"Built over {found['items']:,} of {found['of']:,} vectors, D = {found['dimension']}, on"
    return [
        "## Index",
        f"{about} {found['threads']} threads, {found['rounds']} times each.",
        _figures_table(document, ["build_s", "build_bare_s", "build_over_bare"]),
        *([writer.Picture("index.png", "Recall and cost", lambda: frontier(tuned))] if tuned else []),
    ]
