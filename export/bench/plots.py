"""What a bench shows to the eye: latency by batch with bands, recall and cost of the index, the retriever."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from train.plots import COLOURS, quiet

ByBatch = Mapping[str, Mapping[str, Mapping[str, Any]]]  # batch -> backend -> summary
LABELS = {
    "torch": "torch eager",
    "compiled": "torch.compile",
    "exported": "ONNX Runtime, graph not rewritten",
    "served": "ONNX Runtime, as served",
}
LINES = (*COLOURS, "#8a5ba8", "#b3362d", "#3aa6a6", "#444a54")
PARTS = {
    "prepare": "inputs made into arrays",
    "session_run": "bare session.run",
    "bare_search": "bare search",
    "rest": "everything else",
}


@dataclass(frozen=True)
class Panel:
    """One tower at one thread budget, on real records.

    Args:
        threads: 0 is all cores.
        measured: batch -> backend -> `p50_us`, `p95_us`.
    """

    side: str
    threads: int
    measured: ByBatch


def latency_by_batch(panels: Sequence[Panel], chosen: str) -> Figure:
    """p50 of each backend by batch size, with a band up to p95; one panel a tower and thread budget."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.5 * rows), layout="constrained", squeeze=False
    )
    for place, panel in zip(axes.flat, panels, strict=False):
        _draw(place, panel, chosen)
    for place in list(axes.flat)[len(panels) :]:
        place.set_axis_off()
    lines, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def retriever_parts(batches: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Where the time of the whole retriever goes, a bar a batch size, as shares of it."""
    figure, axes = plt.subplots(figsize=(6.6, 1.7 + 0.6 * len(batches)), layout="constrained")
    for row, found in enumerate(batches.values()):
        parts = found["parts"]
        whole = parts["retriever"]["cpu_p50_us"]
        sizes = {name: parts[name]["cpu_p50_us"] for name in PARTS if name in parts}
        sizes["rest"] = max(0.0, whole - sum(sizes.values()))
        left = 0.0
        for colour, (name, size) in zip(COLOURS[::-1], sizes.items(), strict=True):
            share = size / whole
            axes.barh(row, share, left=left, color=colour, label=PARTS[name] if row == 0 else None)
            if share > 0.06:
                centre = (left + share / 2, row)
                axes.annotate(f"{share:.0%}", centre, ha="center", va="center", color="white", fontsize=8)
            left += share
    axes.set_yticks(
        range(len(batches)),
        [f"batch {b}: {found['parts']['retriever']['p50_us']:,.0f} µs" for b, found in batches.items()],
    )
    axes.set(
        xlabel="share of the retriever's p50 on a processor",
        title="Retriever: where the time goes",
        xlim=(0, 1),
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    quiet(axes)
    axes.grid(visible=False)
    return figure


def _draw(axes: Axes, panel: Panel, chosen: str) -> None:
    batches = sorted(panel.measured, key=int)
    others = [name for name in panel.measured[batches[0]] if name not in (chosen, "torch")]
    colours = dict(zip([chosen, "torch", *others], LINES, strict=False))
    numbers = [int(batch) for batch in batches]
    for backend, colour in colours.items():
        middle = [panel.measured[batch][backend]["p50_us"] for batch in batches]
        high = [panel.measured[batch][backend]["p95_us"] for batch in batches]
        label = LABELS.get(backend, f"ONNX Runtime, {backend}")
        bold = 2.2 if backend == chosen else 1.2
        axes.plot(numbers, middle, marker="o", markersize=4, color=colour, linewidth=bold, label=label)
        axes.fill_between(numbers, middle, high, color=colour, alpha=0.13, linewidth=0)
    budget = f"{panel.threads} thread{'s' if panel.threads != 1 else ''}" if panel.threads else "all cores"
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="batch size",
        ylabel="µs a call: p50, band to p95",
        title=f"{panel.side} tower, {budget}",
    )
    axes.set_xticks(numbers, batches)
    axes.minorticks_off()
    quiet(axes)
