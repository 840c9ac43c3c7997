"""The latency that a bundle says of itself: ONNX Runtime beside torch eager, on real records, in a minute.

`python -m export bench` measures more, by the same code.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from export.backends import Encode, torch_encoder
from export.bench.figures import PERCENTILES, PLAIN, figures_of, summary
from export.bench.machine import machine
from export.bench.plan import AS_IS, Cell
from export.bench.plots import Panel, latency_by_batch
from export.bench.towers import TORCH, time_cell, torch_threads
from export.bench.turns import Effort, Times
from protos.features import Side, TowerInputs
from train.config import Experiment
from train.towers import Tower

BATCHES = (1, 8, 32)
SEED = 0

Cells = list[tuple[Cell, dict[str, Times]]]


def benchmark(
    towers: Mapping[Side, tuple[TowerInputs, Tower, Encode]],
    values: Mapping[Side, Mapping[str, Sequence[Any]]],
    experiment: Experiment,
    chosen: str = PLAIN,
) -> tuple[dict[str, Any], Figure]:
    """Measure both towers at the thread budget of `[export]`.

    Args:
        towers: side -> inputs, frozen torch tower, ONNX Runtime encoder with the declared threads.
        values: side -> feature name -> raw values of real records.
        chosen: name of the variant that the encoders run.

    Returns:
        the report (`machine`, `threads`, `towers`, `metrics`) and its plot.
    """
    config = experiment.export
    effort = Effort(config.iterations, config.iterations, math.inf)
    cells: Cells = []
    with torch_threads(config.threads):
        for side, (inputs, tower, onnx) in towers.items():
            encoders = {TORCH: torch_encoder(tower), chosen: onnx}
            for batch in BATCHES:
                cell = Cell(side, 1, batch, AS_IS)  # names say nothing of the threads; the report does
                cells.append((cell, time_cell(cell, encoders, inputs, values[side], effort)))
    report = {
        "machine": machine(),
        "threads": config.threads,
        "towers": _by_side(cells),
        "metrics": _metrics(cells, chosen),
    }
    panels = [Panel(side, config.threads, found) for side, found in _by_side(cells).items()]
    return report, latency_by_batch(panels, chosen)


def _by_side(cells: Cells) -> dict[str, dict[str, dict[str, Any]]]:
    """Side -> batch -> backend -> summary."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for cell, taken in cells:
        told = {name: summary(times, cell.batch, SEED) for name, times in taken.items()}
        found.setdefault(cell.side, {})[str(cell.batch)] = told
    return found


def _metrics(cells: Cells, chosen: str) -> dict[str, float]:
    """Percentiles of both backends, and their ratios."""
    ends = tuple(f"_p{percent}_us" for percent in PERCENTILES)
    metrics = figures_of(cells, chosen, AS_IS, SEED).metrics
    own = {name: value for name, value in metrics.items() if name.endswith(ends)}
    starts = (TORCH, *(f"{cell.side}_tower_{each}" for cell, _ in cells for each in (TORCH, chosen)))
    ratios = ("torch_over_onnx_b", "item_torch_over_onnx_b")
    return {
        **{name: value for name, value in own.items() if name.startswith(starts)},
        **{name: value for name, value in metrics.items() if name.startswith(ratios)},
    }
