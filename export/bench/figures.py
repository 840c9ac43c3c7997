"""The figures of a bench under the names that MLflow, manifest, reports and budgets share.

    query_tower_fp32_b1_p50_us           a variant of a tower, at batch 1, on one thread, on real records
    query_tower_b1_p50_us                the variant that is served
    torch_b1_p50_us                      the query tower in torch; item_tower_torch_b1_p50_us
    query_tower_fp32_short_b1_p50_us     on texts of 20 characters
    query_tower_fp32_b1_all_cores_p50_us at another thread budget
    torch_over_onnx_b1                   p50 of torch over that of the variant that is served

Beside p50 stand p95, p99 and mean (`_us`), and `records_per_s`. `torch_over_onnx_b1` is of texts of 20
characters where the query has one, and `torch_over_onnx_as_is_b1` of real records; other ratios are of real
records where they name nothing else.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from export.bench.interval import Figure, percentile, ratio
from export.bench.plan import AS_IS, Cell
from export.bench.towers import EXPORTED, TORCH
from protos.turns import Times

PLAIN: Literal["fp32"] = "fp32"  # the variant that others are compared with
SERVED = "served"  # the one that the bundle holds
PERCENTILES = (50, 95, 99)
STATISTICS = ("p50_us", "p95_us", "p99_us", "mean_us", "records_per_s")


@dataclass(frozen=True)
class Figures:
    """Named figures.

    Args:
        metrics: name -> value.
        sure: name -> value with its interval, for those that have one.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    sure: dict[str, Figure] = field(default_factory=dict)

    def add(self, name: str, figure: Figure) -> None:
        """One more, with its interval."""
        self.metrics[name] = figure.value
        self.sure[name] = figure

    def add_between(self, name: str, value: float, ends: Sequence[float]) -> None:
        """One more, of which the ends of its interval are known."""
        self.add(name, Figure(value, *ends))

    def add_all(self, other: "Figures") -> None:
        """Those of another part of the bench."""
        self.metrics.update(other.metrics)
        self.sure.update(other.sure)


def summary(times: Times, batch: int, seed: int) -> dict[str, Any]:
    """What is told of a backend in a cell: its statistics, two intervals, and how many calls there were."""
    mean = float(times.mean())
    middle, high = percentile(times, 50, seed), percentile(times, 99, seed)
    return {
        **{f"p{p}_us": float(np.percentile(times, p)) for p in PERCENTILES},
        "mean_us": mean,
        "records_per_s": 1e6 * batch / mean,
        "iterations": times.size,
        "p50_interval_us": [middle.low, middle.high],
        "p99_interval_us": [high.low, high.high],
    }


def figures_of(
    cells: Iterable[tuple[Cell, Mapping[str, Times]]], chosen: str, main_kind: str, seed: int
) -> Figures:
    """All figures of the towers.

    Args:
        chosen: the variant that is served.
        main_kind: input that `torch_over_onnx_b1` is of.
    """
    found = Figures()
    for cell, backends in cells:
        for name, times in backends.items():
            told = summary(times, cell.batch, seed)
            for start in _starts(cell, name, chosen):
                found.metrics.update({f"{start}_{each}": told[each] for each in STATISTICS})
                for each in ("p50", "p99"):
                    found.add_between(f"{start}_{each}_us", told[f"{each}_us"], told[f"{each}_interval_us"])
        for ratio_name, over, under in _ratios(cell, chosen, main_kind):
            if over in backends and under in backends:
                found.add(ratio_name, ratio([backends[over]], [backends[under]], seed))
    return found


def tower_names(cells: Iterable[Cell], backends: Collection[str], chosen: str, main_kind: str) -> set[str]:
    """The names of all figures that these cells and backends give."""
    names: set[str] = set()
    for cell in cells:
        for backend in backends:
            names |= {f"{start}_{each}" for start in _starts(cell, backend, chosen) for each in STATISTICS}
        ratios = _ratios(cell, chosen, main_kind)
        names |= {name for name, over, under in ratios if {over, under} <= set(backends)}
    return names


def budget_of(threads: int) -> str:
    """How a name ends that is not of one thread."""
    return "" if threads == 1 else f"_{threads}_threads" if threads else "_all_cores"


def _starts(cell: Cell, backend: str, chosen: str) -> list[str]:
    kind = "" if cell.kind == AS_IS else f"_{cell.kind}"
    end = f"{kind}_b{cell.batch}{budget_of(cell.threads)}"
    tower = f"{cell.side}_tower"
    own = TORCH if (cell.side, backend) == ("query", TORCH) else f"{tower}_{backend}"
    return [own + end, tower + end] if backend == chosen else [own + end]


def _ratios(cell: Cell, chosen: str, main_kind: str) -> list[tuple[str, str, str]]:
    """Name, backend above and backend below, of the ratios of a cell."""
    side = "" if cell.side == "query" else "item_"
    end = f"_b{cell.batch}{budget_of(cell.threads)}"
    kind = "" if cell.kind == AS_IS else f"_{cell.kind}"
    kinds = [kind]
    if (cell.side, cell.batch, cell.threads) == ("query", 1, 1):  # where the plain name is the main kind's
        kinds = [f"_{cell.kind}", *([""] if cell.kind == main_kind else [])]
    found = [(f"{side}{TORCH}_over_onnx{each}{end}", TORCH, chosen) for each in kinds]
    return [*found, (f"{side}{EXPORTED}_over_{PLAIN}{kind}{end}", EXPORTED, PLAIN)]
