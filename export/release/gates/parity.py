"""Gate `parity`: the towers of the run in torch against the towers of the bundle in ONNX Runtime.

The ONNX towers run in a process of their own, on the bundle's example queries, on items made from values that
the bundle holds, and on edge cases such as empty and very long texts. It refuses a bundle whose run MLflow
does not have any more.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twinspire.export.benchmark.isolated_process import ProcessFailure, ask
from twinspire.export.encoding.records import example_queries
from twinspire.export.onnx import export as graph
from twinspire.export.onnx import parity
from twinspire.export.onnx.runtimes import Encode, torch_encoder
from twinspire.export.quantization import round_tables
from twinspire.export.release.gate import ComparedVersion, Comparison, Gate, GateResult, Judgement
from twinspire.protos import bundle, features
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, DataError, MissingStage
from twinspire.protos.features import CategoryFeature, FeatureSpec, IdFeature, TextFeature, TowerInputs
from twinspire.train.config import Experiment
from twinspire.train.progress import PROGRESS
from twinspire.train.training.tracking import get_run
from twinspire.train.training.trained_model import load_model

ITEMS = 200  # synthetic items

Batches = Mapping[features.Side, Sequence[parity.ParityBatch]]
Tolerances = Mapping[features.Side, float]


def judge(comparison: Comparison) -> Judgement | None:
    """The result, and the largest difference of each tower.

    Raises:
        Unavailable: MLflow does not answer.
    """
    if not comparison.challenger_runs:
        return None
    with PROGRESS.status("parity of both towers"):
        return _judge(comparison)


def _judge(comparison: Comparison) -> Judgement:
    challenger = comparison.challenger
    tolerances = {side: _tolerance(challenger, side, comparison.experiment) for side in features.SIDES}
    batches = {side: list(parity.batches(*_records(challenger, side))) for side in features.SIDES}
    found = _onnx_vectors(challenger.folder, batches, comparison.scratch)
    if isinstance(found, ProcessFailure):
        comparison.towers_fail = True
        text = f"{found.bundle} tower, {found.text}" if found.bundle else found.text
        return GateResult("parity", None, min(tolerances.values()), False, text), {"error": text}
    try:
        towers = load_model(get_run(challenger.manifest.run_id)).towers
    except (MissingStage, DataError) as error:
        text = f"there are no towers in torch to compare with: {error}"
        return GateResult("parity", None, min(tolerances.values()), False, text), {"error": str(error)}
    precision = challenger.manifest.precision
    variants = {"query": precision.query, "item": precision.item}
    torch = {
        side: torch_encoder(round_tables(graph.frozen(tower), variants[side]))
        for side, tower in zip(features.SIDES, towers, strict=True)
    }
    return _differences(batches, found, torch, tolerances)


def _differences(
    batches: Batches,
    found: Mapping[str, Any],
    torch: Mapping[features.Side, Encode],
    tolerances: Tolerances,
) -> Judgement:
    """The result is of the batch with the largest difference relative to the tolerance of its tower."""
    measured: dict[str, Any] = {}
    worst, bound, where = -1.0, 1.0, ""
    for side in features.SIDES:
        most, records = 0.0, 0
        for batch, vectors in zip(batches[side], found[side], strict=True):
            difference = _difference(vectors, torch[side](batch.arrays))
            if difference / tolerances[side] > worst / bound:
                worst, bound, where = difference, tolerances[side], f"{side} tower, {batch.records}"
            most, records = max(most, difference), records + batch.size
        measured[side] = {"max_abs_diff": most if math.isfinite(most) else None, "records": records}
    holds = worst <= bound
    relation = "differ by at most" if holds else "differ by"
    text = f"torch and ONNX Runtime {relation} {worst:.1e} ({where})"
    figure = worst if math.isfinite(worst) else None
    return GateResult("parity", figure, bound, holds, text), measured


def _difference(found: Any, expected: Any) -> float:
    """The largest absolute difference; infinite if the shapes differ or a value is not finite."""
    if found.shape != expected.shape:
        return math.inf
    difference = parity.difference(found, expected)
    return difference if math.isfinite(difference) else math.inf


def _tolerance(challenger: ComparedVersion, side: features.Side, experiment: Experiment) -> float:
    if experiment.gates.parity_tolerance is not None:
        return experiment.gates.parity_tolerance
    tolerance: float = challenger.manifest.parity.get(side, {}).get("tolerance", 0)
    return tolerance or experiment.export.parity_tolerance


def _records(challenger: ComparedVersion, side: features.Side) -> tuple[TowerInputs, dict[str, list[Any]]]:
    """The inputs of a tower, and records for them: feature name -> raw values."""
    inputs = challenger.manifest.schema.side(side)
    if side == "query":
        return inputs, example_queries(challenger.manifest)
    path = challenger.folder / bundle.ITEMS
    try:
        table = parse_json(path.read_bytes())
        shown = [str(value) for values in table["fields"].values() for value in values if value]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BundleDamaged(f"{path}: expected JSON with ids, popularity and fields") from None
    queries = [
        value for each in challenger.manifest.examples for value in each.values() if isinstance(value, str)
    ]
    words = _spread([*shown, *queries] or [""], ITEMS)
    return inputs, {name: _synthetic(inputs, name, spec, words) for name, spec in inputs.features.items()}


def _synthetic(inputs: TowerInputs, name: str, spec: FeatureSpec, words: Sequence[str]) -> list[Any]:
    """One value of an item's feature for each word, from all over the feature's vocabulary."""
    if isinstance(spec, TextFeature):
        return list(words)
    if isinstance(spec, CategoryFeature | IdFeature):
        known = _spread(inputs.known(name) or ["\x00"], len(words))
        several = isinstance(spec, CategoryFeature) and spec.multi
        return [[value, known[n - 1]] for n, value in enumerate(known)] if several else known
    return [float(n - len(words) // 2) for n in range(len(words))]


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """`count` of the values at equal distances; values repeat if there are fewer."""
    return [values[n * len(values) // count] for n in range(count)]


def _onnx_vectors(folder: Path, batches: Batches, scratch: Path) -> dict[str, list[Any]] | ProcessFailure:
    """The vectors of each batch by the bundle's own towers."""
    for side in features.SIDES:
        arrays: dict[str, Any] = {
            f"{n:06}.{name}": array
            for n, batch in enumerate(batches[side])
            for name, array in batch.arrays.items()
        }
        np.savez(scratch / f"{side}.npz", allow_pickle=False, **arrays)
    answer = ask({"task": "encode", "bundle": str(folder), "arrays": str(scratch)}, scratch)
    if isinstance(answer, ProcessFailure):
        return answer
    found: dict[str, list[Any]] = {}
    for side in features.SIDES:
        with np.load(scratch / f"{side}-vectors.npz", allow_pickle=False) as file:
            found[side] = [file[key] for key in file.files]
    return found


GATES = (
    Gate(
        name="parity",
        title="parity of torch and ONNX Runtime",
        order=10,
        judge=judge,
        shown=lambda figure: f"{figure:.1e}",
    ),
)
