"""One tower's variants made, measured and chosen from."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from export import parity
from export.backends import onnx_encoder, torch_encoder
from export.precision.measure import RECORDS, Measured, measure
from export.precision.pick import Candidate, Picked, fixed, pick
from export.precision.rounded import VARIANTS, rounded
from export.precision.trial import METRICS, Trial, Vectors
from export.precision.variants import Variants, make_variants
from protos.bundle import Variant
from protos.errors import ConfigError
from protos.features import Arrays, Side, TowerInputs
from train.config import ExportConfig
from train.config.precision import PrecisionConfig
from train.problem import Problem
from train.towers import Tower

COUNTS: Mapping[Side, int] = {"query": 1, "item": 32}  # batch size at which the fastest is chosen
BATCH = 32  # of calibration
ASKED_FOR: Mapping[str, str] = {  # never chosen by itself -> why not
    "int8_dynamic": "taken only where it is asked for: a vector depends on what else is in its batch",
    "int8_static": "taken only where it is asked for: what calibration has not seen may come out far off",
}
ROOM = 2.0  # between what int8 layers differ by here and what they may differ by elsewhere


@dataclass(frozen=True)
class Exported:
    """A tower in float32.

    Args:
        tower: for inference.
        path: its ONNX file.
    """

    side: Side
    inputs: TowerInputs
    tower: Tower
    path: Path


@dataclass(frozen=True)
class Chosen:
    """The variant that is served.

    Args:
        path: its ONNX file.
        tower: in torch, with the tables that the file has.
        tolerance: by which torch and ONNX Runtime may differ.
        vectors: of the trial's queries or items, by this variant.
        report: what was measured of all variants, and why this one.
    """

    variant: Variant
    path: Path
    tower: Tower
    tolerance: float
    vectors: Vectors
    report: dict[str, Any]


def choose_tower(
    exported: Exported,
    trial: Trial,
    config: PrecisionConfig,
    export: ExportConfig,
    folder: Path,
    console: Console,
) -> Chosen:
    """Make the variants of a tower, measure them, and choose.

    Args:
        trial: what they are judged on.
        export: thread budget and iterations of the latency, and the tolerance of what is computed in
            float32.
        folder: that receives the variants' files.
        console: for progress.

    Raises:
        ConfigError: the variant that the config asks for cannot be made of this tower.
    """
    side, asked = exported.side, getattr(config, exported.side)
    made = _made(exported, trial, config, folder, console)
    measured = measure(
        side,
        exported.inputs,
        made.files,
        trial,
        export.threads,
        export.iterations,
        config.seed,
        console,
    )
    batch = COUNTS[side]
    candidates = [_candidate(name, each, batch) for name, each in measured.items()]
    if asked == "auto":
        steady = [each for each in candidates if each.name not in ASKED_FOR]
        picked = pick(steady, config.max_loss, f"at batch {batch}")
        picked.verdicts.update({each: ASKED_FOR[each] for each in measured if each in ASKED_FOR})
    else:
        picked = fixed(asked, candidates, config.max_loss, side)
    variant = next(name for name in measured if name == picked.name)
    tower = rounded(exported.tower, variant)
    tolerance = export.parity_tolerance
    if variant in ("int8_dynamic", "int8_static"):
        tolerance = max(tolerance, _own_tolerance(exported, made.files[variant], tower, trial))
    report = _report(made, measured, picked, batch, config, trial)
    report["parity_tolerance"] = tolerance
    return Chosen(variant, made.files[variant], tower, tolerance, measured[variant].vectors, report)


def calibration(
    problem: Problem, side: Side, inputs: TowerInputs, config: PrecisionConfig
) -> Iterator[Arrays]:
    """A tower's inputs of training records, batch after batch, to take the range of its layers from."""
    values = problem.sample(side, "train", config.calibration, config.seed)
    total = len(next(iter(values.values())))
    for at in range(0, total, BATCH):
        yield inputs.to_arrays({name: each[at : at + BATCH] for name, each in values.items()})


def _made(
    exported: Exported, trial: Trial, config: PrecisionConfig, folder: Path, console: Console
) -> Variants:
    side = exported.side
    asked = getattr(config, side)
    wanted = [name for name in VARIANTS if asked in ("auto", name)]

    with console.status(f"variants of the {side} tower"):
        training = partial(calibration, trial.problem, side, exported.inputs, config)
        made = make_variants(exported.path, folder, training, wanted)
    if asked != "auto" and asked in made.skipped:
        raise ConfigError(f"precision.{side}: {asked} cannot be made of this tower: {made.skipped[asked]}")
    return made


def _candidate(name: str, measured: Measured, batch: int) -> Candidate:
    figures = measured.figures
    deltas = {metric: figures[f"{metric}_delta"] for metric in METRICS}
    return Candidate(name, figures["size_bytes"], deltas, figures["latency"][str(batch)]["p50_us"])


def _own_tolerance(exported: Exported, path: Path, tower: Tower, trial: Trial) -> float:
    """What int8 layers may differ by from torch's in float32: with room, to one digit."""
    values = trial.problem.sample(exported.side, "test", RECORDS, seed=0)
    found = parity.check(
        exported.side, exported.inputs, onnx_encoder(path), torch_encoder(tower), values, math.inf
    )
    return _rounded_up(ROOM * found["max_abs_diff"])


def _rounded_up(value: float) -> float:
    """The next number of one digit."""
    if value <= 0:
        return 0.0
    power = math.floor(math.log10(value))
    return float(f"{math.ceil(value / 10.0**power)}e{power}")


def _report(
    made: Variants,
    measured: Mapping[Variant, Measured],
    picked: Picked,
    batch: int,
    config: PrecisionConfig,
    trial: Trial,
) -> dict[str, Any]:
    return {
        "chosen": picked.name,
        "why": picked.why,
        "batch": batch,
        "max_loss": config.max_loss,
        "variants": {name: each.figures for name, each in measured.items()},
        "not_chosen": picked.verdicts,
        "not_made": dict(made.skipped),
        "tables": list(made.tables),
        "dense_layers": list(made.layers),
        "judged_on": trial.told(),
    }
