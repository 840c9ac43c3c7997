"""A scale report as one document, and as files: a page and a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from export.bench.machine import machine, versions
from export.scale import page, plots
from export.scale.capacity import capacity, laws_of
from protos.bundle import write_file
from train.plots import save
from train.tracking import git_commit

PAGE, PLOT = "SCALE.md", "scale.png"

Document = dict[str, Any]


def document_of(
    sizes: Sequence[Mapping[str, Any]], vectors: Mapping[str, Any] | None, left_out: str, seed: int
) -> Document:
    """All of a report, ready for JSON.

    Args:
        sizes: what was measured of each, the smallest first.
        vectors: what was measured of int8 vectors; None if nothing was.
        left_out: why not.
    """
    laws = laws_of(sizes)
    count = 0 if vectors is None else vectors["items"]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "measured_by": git_commit(),
        "machine": {**machine(), "memory_bytes": psutil.virtual_memory().total},
        "versions": versions(),
        "seed": seed,
        "sizes": [dict(each) for each in sizes],
        "vectors": None if vectors is None else dict(vectors),
        "left_out": left_out,
        "laws": None if laws is None else asdict(laws),
        "capacity": None if laws is None else capacity(laws, sizes[-1], count),
    }


def write(document: Document, folder: Path) -> Document:
    """Write page and plot; gives their paths, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    save(plots.figure(document), folder / PLOT)
    write_file(folder / PAGE, page.page(document, PLOT).encode())
    return {"page": str(folder / PAGE), "plot": str(folder / PLOT)}
