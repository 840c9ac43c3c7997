"""What a variant costs and what it saves: quality, difference, size and latency, each beside float32."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from export import parity
from export.backends import Encode, onnx_encoder
from export.bench.figures import summary
from export.bench.inputs import Values
from export.bench.plan import AS_IS, Cell
from export.bench.towers import time_cell
from export.precision.trial import METRICS, PerQuery, Trial, Vectors
from export.precision.variants import node_count
from protos.bundle import Variant
from protos.features import Side, TowerInputs
from protos.turns import Effort
from train.metrics import interval

BATCHES = (1, 32)
SECONDS = 5.0  # that a batch size may take before fewer calls are thought enough
FEWEST = 100  # of those calls
RECORDS = 500  # of the test part that latency is measured on


@dataclass(frozen=True)
class Measured:
    """One variant.

    Args:
        figures: all that a report says of it.
        vectors: of the trial's queries or items.
    """

    figures: dict[str, Any]
    vectors: Vectors


def measure(
    side: Side,
    inputs: TowerInputs,
    files: Mapping[Variant, Path],
    trial: Trial,
    threads: int,
    iterations: int,
    seed: int,
    console: Console,
) -> dict[Variant, Measured]:
    """Measure the variants of one side's tower, float32 among them.

    Args:
        threads: of ONNX Runtime while latency is measured; 0 takes all cores. Vectors are made by all.
        iterations: timed calls of each variant at a batch size.
        seed: of the bootstraps.

    Returns:
        name -> figures: `size_bytes`, `size_share`, `nodes`, those of `differences` and `losses`, and
        `latency`, batch size -> percentiles.
    """
    with console.status(f"latency of the {side} tower's variants"):
        encoders = {name: onnx_encoder(path, threads) for name, path in files.items()}
        values: Values = dict(trial.problem.sample(side, "test", RECORDS, seed=0))
        effort = Effort(iterations, min(FEWEST, iterations), SECONDS)
        latency = _latency(inputs, encoders, values, effort, seed)
    plain = files["fp32"].stat().st_size
    found = {}
    for name, path in files.items():
        if name == "fp32":
            vectors, judged = trial.vectors[side], trial.baseline
        else:
            title = f"{'test queries' if side == 'query' else 'items'}, {name}"
            vectors = trial.encode(side, onnx_encoder(path, threads=0), inputs, console, title)
            judged = trial.judge_side(side, vectors)
        size = path.stat().st_size
        figures = {"size_bytes": size, "size_share": size / plain, "nodes": node_count(path)}
        figures |= differences(vectors, trial.vectors[side]) | losses(judged, trial.baseline, seed)
        found[name] = Measured({**figures, "latency": latency[name]}, vectors)
    return found


def differences(vectors: Vectors, plain: Vectors) -> dict[str, float]:
    """How far vectors (N, D) are from those in float32: `max_abs_diff` and `mean_cosine`.

    The first is relative to a vector's length where that is above 1; zero vectors have no cosine.
    """
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(plain, axis=1)
    there = lengths > 0
    products = np.einsum("nd,nd->n", vectors[there], plain[there])
    return {
        "max_abs_diff": parity.difference(vectors, plain),
        "mean_cosine": float((products / lengths[there]).mean()) if there.any() else 1.0,
    }


def losses(judged: PerQuery, baseline: PerQuery, seed: int) -> dict[str, float]:
    """Each metric, and by how much it differs from float32's, with a 95 % paired bootstrap interval."""
    found: dict[str, float] = {}
    for name in METRICS:
        delta = judged[name] - baseline[name]
        low, high = interval(delta, seed=seed)
        found |= {
            name: float(judged[name].mean()),
            f"{name}_delta": float(delta.mean()),
            f"{name}_delta_low": low,
            f"{name}_delta_high": high,
        }
    return found


def _latency(
    inputs: TowerInputs, encoders: Mapping[Variant, Encode], values: Values, effort: Effort, seed: int
) -> dict[Variant, dict[str, Any]]:
    """Name -> batch size -> summary; all variants take short turns in one process."""
    found: dict[Variant, dict[str, Any]] = {name: {} for name in encoders}
    contenders = {str(name): encode for name, encode in encoders.items()}
    for batch in BATCHES:
        # How many threads an encoder has, it knows itself.
        taken = time_cell(Cell(inputs.side, 1, batch, AS_IS), contenders, inputs, values, effort)
        for name in encoders:
            found[name][str(batch)] = summary(taken[name], batch, seed)
    return found
