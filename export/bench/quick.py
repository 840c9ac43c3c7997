"""The latency that a bundle says of itself: ONNX Runtime beside torch eager, on real records, in a minute.

`python -m export bench` measures more, by the same code.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from export.backends import Encode, torch_encoder
from export.bench.figures import PERCENTILES, PLAIN, SERVED, figures_of, summary
from export.bench.inputs import Values
from export.bench.machine import machine
from export.bench.plan import AS_IS, Cell
from export.bench.plots import Panel, latency_by_batch
from export.bench.towers import TORCH, time_cell, torch_threads
from protos.features import Side, TowerInputs
from protos.turns import Effort, Times
from train.config import Experiment
from train.towers import Tower

BATCHES = (1, 8, 32)
SEED = 0

Cells = list[tuple[Cell, dict[str, Times]]]


@dataclass(frozen=True)
class Contenders:
    """One tower, in torch and in ONNX Runtime.

    Args:
        tower: for inference.
        encoders: `fp32` and `served` -> encoder with the declared threads.
        values: feature name -> raw values of real records.
    """

    inputs: TowerInputs
    tower: Tower
    encoders: Mapping[str, Encode]
    values: Values


def benchmark(towers: Mapping[Side, Contenders], experiment: Experiment) -> tuple[dict[str, Any], Figure]:
    """Measure both towers at the thread budget of `[export]`.

    Returns:
        the report (`machine`, `threads`, `towers`, `metrics`) and its plot.
    """
    config = experiment.export
    effort = Effort(config.iterations, config.iterations, math.inf)
    cells: Cells = []
    with torch_threads(config.threads):
        for side, each in towers.items():
            encoders = {TORCH: torch_encoder(each.tower), **each.encoders}
            for batch in BATCHES:
                cell = Cell(side, 1, batch, AS_IS)  # names say nothing of the threads; the report does
                cells.append((cell, time_cell(cell, encoders, each.inputs, each.values, effort)))
    report = {
        "machine": machine(),
        "threads": config.threads,
        "towers": _by_side(cells),
        "metrics": _metrics(cells),
    }
    panels = [Panel(side, config.threads, found) for side, found in _by_side(cells).items()]
    return report, latency_by_batch(panels, SERVED)


def _by_side(cells: Cells) -> dict[str, dict[str, dict[str, Any]]]:
    """Side -> batch -> backend -> summary."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for cell, taken in cells:
        told = {name: summary(times, cell.batch, SEED) for name, times in taken.items()}
        found.setdefault(cell.side, {})[str(cell.batch)] = told
    return found


def _metrics(cells: Cells) -> dict[str, float]:
    """Percentiles of all backends, and the ratios of torch and what is served."""
    ends = tuple(f"_p{percent}_us" for percent in PERCENTILES)
    metrics = figures_of(cells, SERVED, AS_IS, SEED).metrics
    own = {name: value for name, value in metrics.items() if name.endswith(ends)}
    starts = (TORCH, *(f"{cell.side}_tower_{each}" for cell, _ in cells for each in (TORCH, PLAIN, "b")))
    ratios = ("torch_over_onnx_b", "item_torch_over_onnx_b")
    return {
        **{name: value for name, value in own.items() if name.startswith(starts)},
        **{name: value for name, value in metrics.items() if name.startswith(ratios)},
    }
