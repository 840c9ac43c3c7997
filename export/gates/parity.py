"""Gate `parity`: the towers of the run in torch against the towers of the bundle in ONNX Runtime.

The ONNX towers run in a process of their own, on the bundle's example queries, on items made of the words
that the bundle holds, and on what someone will send all the same.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export import graph, parity
from export.backends import Encode, torch_encoder
from export.gates.apart import Failure, ask
from export.gates.decision import Gate, Side
from export.precision import rounded
from protos import bundle, features
from protos.documents import parse_json
from protos.errors import BundleDamaged, DataError, MissingStage
from protos.features import CategoryFeature, FeatureSpec, IdFeature, TextFeature, TowerInputs
from train.config import Experiment
from train.model import restore
from train.tracking import get_run

SIDES: tuple[features.Side, features.Side] = ("query", "item")
ITEMS = 200  # made-up items

Batches = Mapping[features.Side, Sequence[parity.Batch]]
Bounds = Mapping[features.Side, float]


def judge(challenger: Side, experiment: Experiment, scratch: Path) -> tuple[Gate, dict[str, Any]]:
    """The gate, and what was measured for it.

    Raises:
        Unavailable: MLflow does not answer.
    """
    bounds = {side: _tolerance(challenger, side, experiment) for side in SIDES}
    batches = {side: list(parity.batches(*_records(challenger, side))) for side in SIDES}
    found = _onnx(challenger.folder, batches, scratch)
    if isinstance(found, Failure):
        text = f"{found.bundle} tower, {found.text}" if found.bundle else found.text
        return Gate("parity", None, min(bounds.values()), False, text), {"error": text}
    try:
        towers = restore(get_run(challenger.manifest.run_id)).towers
    except (MissingStage, DataError) as error:
        return _claimed(challenger, bounds, str(error))
    own = challenger.manifest.precision
    kept = {"query": own.query, "item": own.item}
    torch = {
        side: torch_encoder(rounded(graph.frozen(tower), kept[side]))
        for side, tower in zip(SIDES, towers, strict=True)
    }
    return _measured(batches, found, torch, bounds)


def _measured(
    batches: Batches, found: Mapping[str, Any], torch: Mapping[features.Side, Encode], bounds: Bounds
) -> tuple[Gate, dict[str, Any]]:
    """The gate tells of the batch that comes nearest to its tower's tolerance, or is farthest beyond it."""
    measured: dict[str, Any] = {}
    worst, bound, where = -1.0, 1.0, ""
    for side in SIDES:
        most, records = 0.0, 0
        for batch, vectors in zip(batches[side], found[side], strict=True):
            difference = _difference(vectors, torch[side](batch.arrays))
            if difference / bounds[side] > worst / bound:
                worst, bound, where = difference, bounds[side], f"{side} tower, {batch.records}"
            most, records = max(most, difference), records + batch.size
        measured[side] = {"max_abs_diff": most if math.isfinite(most) else None, "records": records}
    holds = worst <= bound
    relation = "differ by at most" if holds else "differ by"
    text = f"torch and ONNX Runtime {relation} {worst:.1e} ({where})"
    return Gate("parity", worst if math.isfinite(worst) else None, bound, holds, text), measured


def _difference(found: Any, expected: Any) -> float:
    """Infinite where the two cannot be compared."""
    if found.shape != expected.shape:
        return math.inf
    difference = parity.difference(found, expected)
    return difference if math.isfinite(difference) else math.inf


def _claimed(challenger: Side, bounds: Bounds, why: str) -> tuple[Gate, dict[str, Any]]:
    """What the manifest says, where the run's own towers cannot be had."""
    claimed = {side: _said(challenger, side, "max_abs_diff") for side in SIDES}
    known = [(each / bounds[side], each, bounds[side]) for side, each in claimed.items() if each is not None]
    _, figure, bound = max(known) if known else (0.0, None, min(bounds.values()))
    claims = f"the manifest claims {figure:.1e}" if figure is not None else "the manifest claims nothing"
    text = f"not measured anew ({why}); {claims}"
    holds = figure is not None and figure <= bound
    return Gate("parity", figure, bound, holds, text), {"claimed": figure, "error": why}


def _tolerance(challenger: Side, side: features.Side, experiment: Experiment) -> float:
    if experiment.gates.parity_tolerance is not None:
        return experiment.gates.parity_tolerance
    return _said(challenger, side, "tolerance") or experiment.export.parity_tolerance


def _said(challenger: Side, side: features.Side, name: str) -> float | None:
    """A figure of one tower's parity in the manifest."""
    told = challenger.manifest.parity.get(side)
    value = told.get(name) if isinstance(told, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _records(challenger: Side, side: features.Side) -> tuple[TowerInputs, dict[str, list[Any]]]:
    """The inputs of a tower, and records for them: feature name -> raw values."""
    inputs = challenger.manifest.schema.side(side)
    examples = challenger.manifest.examples
    if side == "query":
        blank = {
            name: "" if isinstance(spec, TextFeature) else None for name, spec in inputs.features.items()
        }
        rows = [{**blank, **{k: v for k, v in each.items() if k in blank}} for each in examples or ({},)]
        return inputs, {name: [row[name] for row in rows] for name in inputs.features}
    path = challenger.folder / bundle.ITEMS
    try:
        table = parse_json(path.read_bytes())
        shown = [str(value) for values in table["fields"].values() for value in values if value]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BundleDamaged(f"{path}: expected JSON with ids, popularity and fields") from None
    asked = [value for each in examples for value in each.values() if isinstance(value, str)]
    words = _spread([*shown, *asked] or [""], ITEMS)
    return inputs, {name: _made_up(inputs, name, spec, words) for name, spec in inputs.features.items()}


def _made_up(inputs: TowerInputs, name: str, spec: FeatureSpec, words: Sequence[str]) -> list[Any]:
    """Values of an item's feature, as various as the bundle knows them."""
    if isinstance(spec, TextFeature):
        return list(words)
    if isinstance(spec, CategoryFeature | IdFeature):
        known = _spread(inputs.known(name) or ["\x00"], len(words))
        several = isinstance(spec, CategoryFeature) and spec.multi
        return [[value, known[n - 1]] for n, value in enumerate(known)] if several else known
    return [float(n - len(words) // 2) for n in range(len(words))]


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """So many of the values, from all over."""
    return [values[n * len(values) // count] for n in range(count)]


def _onnx(folder: Path, batches: Batches, scratch: Path) -> dict[str, list[Any]] | Failure:
    """The vectors of each batch by the bundle's own towers."""
    for side in SIDES:
        arrays: dict[str, Any] = {
            f"{n:06}.{name}": array
            for n, batch in enumerate(batches[side])
            for name, array in batch.arrays.items()
        }
        np.savez(scratch / f"{side}.npz", allow_pickle=False, **arrays)
    answer = ask({"task": "encode", "bundle": str(folder), "arrays": str(scratch)}, scratch)
    if isinstance(answer, Failure):
        return answer
    found: dict[str, list[Any]] = {}
    for side in SIDES:
        with np.load(scratch / f"{side}-vectors.npz", allow_pickle=False) as file:
            found[side] = [file[key] for key in file.files]
    return found
