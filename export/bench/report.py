"""A bench as one document, and as files: JSON for programs, a page with plots for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Plot

from export.bench import page, plots
from export.bench.budgets import Budget
from export.bench.figures import SERVED, Figures, summary
from export.bench.machine import BUSY, machine, on_processor, versions
from export.bench.plan import AS_IS, SIDES
from export.bench.previous import DOCUMENT, changes
from export.bench.subject import Subject
from export.bench.towers import Measured
from export.index import frontier
from protos.bundle import write_file
from train.plots import save
from train.tracking import git_commit

JSON = DOCUMENT
PAGE = "report.md"
# What a bench is looked at for, in the order in which people are told.
MAIN = (
    "torch_over_onnx_b1",
    "query_tower_b1_p50_us",
    "query_tower_b1_p99_us",
    "query_tower_b32_p50_us",
    "item_tower_b32_p50_us",
    "chosen_size_share",
    "retriever_b1_p50_us",
    "retriever_b1_p99_us",
    "retriever_b32_p50_us",
    "retriever_share_b1",
    "retriever_share_b32",
    "retriever_cpu_share_b1",
    "retriever_cpu_share_b32",
    "build_over_bare",
    "load_s",
)
AT_THE_TOP = (
    "torch_over_onnx_b1",
    "chosen_size_share",
    "retriever_share_b1",
    "retriever_share_b32",
    "build_over_bare",
    "load_s",
)

Document = dict[str, Any]


def document_of(
    subject: Subject,
    figures: Figures,
    parts: Document,
    budgets: Sequence[Budget],
    before: Document | None,
) -> Document:
    """All of a bench, ready for JSON.

    Args:
        parts: `towers`, `retriever` and `index`, those that were measured.
        before: the document of the bench before this one.
    """
    manifest = subject.manifest
    return {
        **{name: figures.metrics[name] for name in AT_THE_TOP if name in figures.metrics},
        "name": manifest.name,
        "bundle": str(subject.folder),
        "bundle_version": manifest.bundle_version,
        "git_commit": manifest.git_commit,
        "measured_by": git_commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "chosen": {side: subject.variant(side) for side in SIDES},
        **parts,
        "metrics": figures.metrics,
        "intervals": {name: [each.low, each.high] for name, each in figures.sure.items()},
        "main": [name for name in MAIN if name in figures.metrics],
        "budgets": [{**asdict(each), "text": each.text()} for each in budgets],
        "previous": None if before is None else _previous(figures, before, parts),
    }


def towers_part(measured: Measured, main_kind: str, seed: int) -> Document:
    """What is told of both towers.

    Args:
        main_kind: input that `torch_over_onnx_b1` is of.
    """
    cells = [
        {
            **asdict(cell),
            "backends": {name: summary(times, cell.batch, seed) for name, times in taken.items()},
        }
        for cell, taken in measured.cells
    ]
    return {
        "cells": cells,
        "main_kind": main_kind,
        "skipped": measured.skipped,
        "compile_s": measured.compile_s,
        "on_processor": measured.on_processor,
    }


def write(document: Document, folder: Path) -> list[Path]:
    """Write `latency.json`, `report.md` and the plots that there is something to draw for."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {
        "latency.png": _latency(document),
        "retriever.png": _retriever(document),
        "index.png": _index(document),
    }
    pictures = [save(figure, folder / name) for name, figure in drawn.items() if figure is not None]
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_file(folder / JSON, f"{text}\n".encode())
    write_file(folder / PAGE, page.page(document, {path.name for path in pictures}).encode())
    return [folder / JSON, folder / PAGE, *pictures]


def _previous(figures: Figures, before: Document, parts: Document) -> Document:
    busy = min(on_processor(parts), on_processor(before)) < BUSY
    found = changes(figures, before, MAIN, busy)
    told = {name: before.get(name) for name in ("run_id", "at", "bundle_version", "versions", "chosen")}
    return {**told, "changes": {name: asdict(each) for name, each in found.items()}}


def _latency(document: Document) -> Plot | None:
    by_panel: dict[tuple[str, int], dict[str, Any]] = {}
    for cell in document.get("towers", {}).get("cells", ()):
        if cell["kind"] == AS_IS:
            found = by_panel.setdefault((cell["side"], cell["threads"]), {})
            found[str(cell["batch"])] = cell["backends"]
    panels = [plots.Panel(side, threads, found) for (side, threads), found in by_panel.items()]
    return plots.latency_by_batch(panels, SERVED) if panels else None


def _retriever(document: Document) -> Plot | None:
    found = document.get("retriever")
    return plots.retriever_parts(found["batches"]) if found else None


def _index(document: Document) -> Plot | None:
    found = document.get("index")
    return frontier(found["tuned"]) if found and found["tuned"] else None
