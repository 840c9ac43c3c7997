"""The latency report: both towers, both backends, with the machine and the thread budget it holds for.

python -m export bench --bundle .cache/bundles/pydocs/<version>
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from export.backends import Encode, torch_encoder
from export.latency import machine, measure, metrics
from export.plots import latency_by_batch
from protos.features import Side, TowerInputs
from train.config import Experiment
from train.towers import Tower


def benchmark(
    towers: Mapping[Side, tuple[TowerInputs, Tower, Encode]],
    values: Mapping[Side, Mapping[str, Sequence[Any]]],
    experiment: Experiment,
) -> tuple[dict[str, Any], Figure]:
    """Measure both towers.

    Args:
        towers: side -> inputs, frozen torch tower, ONNX Runtime encoder with the declared threads.
        values: side -> feature name -> raw values of real records.

    Returns:
        the report (`machine`, `threads`, `towers`, `metrics`) and its plot.
    """
    config = experiment.export
    measured = {
        side: measure(
            inputs,
            {"torch": torch_encoder(tower), "fp32": onnx},
            values[side],
            config.iterations,
            config.threads,
        )
        for side, (inputs, tower, onnx) in towers.items()
    }
    figures: dict[str, float] = {}
    for side, by_batch in measured.items():
        figures |= metrics(side, by_batch)
    report = {
        "machine": machine(),
        "threads": config.threads,
        "towers": {side: {str(b): v for b, v in found.items()} for side, found in measured.items()},
        "metrics": figures,
    }
    return report, latency_by_batch(measured, config.threads)
