"""Chooses the variant of a tower, and the precision of the stored item vectors."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console

from export.onnx import parity
from export.onnx.runtimes import onnx_encoder, torch_encoder
from export.quantization.measure import (
    METRICS,
    RECORDS,
    MeasuredVariant,
    QualitySample,
    Vectors,
    differences,
    losses,
    measure,
)
from export.quantization.selection import Candidate, Selection, configured, select
from export.quantization.variants import RECIPES, VARIANTS, Variants, make_variants, round_tables
from protos.bundle import Precision, Variant
from protos.errors import ConfigError
from protos.features import Arrays, Side, TowerInputs
from protos.vectors import rounded_vectors
from train.config import ExportConfig
from train.config.precision import PrecisionConfig
from train.data.training_data import TrainingData
from train.models.towers import Tower

DECISIVE_BATCH: Mapping[Side, int] = {"query": 1, "item": 32}  # batch size at which the fastest is chosen
CALIBRATION_BATCH = 32
TOLERANCE_FACTOR = 2.0  # tolerance of int8 layers over the difference measured here; processors differ
TOO_SMALL = "auto never takes it, and of so few items only what it may take is measured"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class ExportedTower:
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
class ChosenVariant:
    """The variant that will be served.

    Args:
        path: its ONNX file.
        tower: in torch, with the same rounded tables as the file.
        tolerance: the largest allowed difference between torch and ONNX Runtime.
        vectors: of the sample's queries or items, by this variant.
        report: the measurements of all variants, and the reason for this one.
    """

    variant: Variant
    path: Path
    tower: Tower
    tolerance: float
    vectors: Vectors
    report: dict[str, Any]


@dataclass(frozen=True)
class StoredVectors:
    """The precision of a bundle's item vectors.

    Args:
        report: the measurements of all precisions, and the reason for this one; `together` is the loss of
            both chosen towers and the chosen precision of vectors.
    """

    precision: Precision
    report: dict[str, Any]


def choose_tower(
    exported: ExportedTower,
    sample: QualitySample,
    config: PrecisionConfig,
    export: ExportConfig,
    folder: Path,
    console: Console,
) -> ChosenVariant:
    """Make the variants of a tower, measure them, and choose one.

    Args:
        sample: for the quality of the variants.
        export: threads and iterations for latency, and the tolerance of variants that compute in float32.
        folder: receives the variants' files.
        console: for progress.

    Raises:
        ConfigError: the configured variant cannot be made of this tower.
    """
    side, setting = exported.side, getattr(config, exported.side)
    made = _make(exported, sample, config, folder, console)
    measured = measure(
        side,
        exported.inputs,
        made.files,
        sample,
        export.threads,
        export.iterations,
        config.seed,
        console,
    )
    batch = DECISIVE_BATCH[side]
    candidates = [_candidate(name, each, batch) for name, each in measured.items()]
    if setting == "auto":
        manual: dict[str, str] = {name: RECIPES[name].manual for name in measured if RECIPES[name].manual}
        automatic = [each for each in candidates if each.name not in manual]
        selected = select(automatic, config.max_loss, f"at batch {batch}")
        selected.rejections.update(manual)
    else:
        selected = configured(setting, candidates, config.max_loss, side)
    variant = next(name for name in measured if name == selected.name)
    tower = round_tables(exported.tower, variant)
    tolerance = export.parity_tolerance
    if RECIPES[variant].dense:
        tolerance = max(tolerance, _dense_tolerance(exported, made.files[variant], tower, sample))
    report = _report(made, measured, selected, batch, config, sample)
    report["parity_tolerance"] = tolerance
    return ChosenVariant(variant, made.files[variant], tower, tolerance, measured[variant].vectors, report)


def choose_vectors(
    sample: QualitySample, queries: Vectors, items: Vectors, has_padding_dim: bool, config: PrecisionConfig
) -> StoredVectors:
    """Choose the smallest precision within the bound, by exact search over vectors as they will be read.

    Args:
        queries: (Q, D), the sample's queries by the chosen query tower.
        items: (N, D), its items by the chosen item tower.
        has_padding_dim: see `protos.vectors`.
    """
    plain = sample.metrics(queries, items)
    figures, metrics, candidates = {}, {}, []
    for precision in PRECISIONS:
        rounded = rounded_vectors(items, precision, has_padding_dim)
        metrics[precision] = plain if precision == "fp32" else sample.metrics(queries, rounded)
        size = _bytes_per_item(precision, items.shape[1])
        lost = losses(metrics[precision], plain, config.seed)
        figures[precision] = {
            "bytes_per_item": size,
            "size_share": size / _bytes_per_item("fp32", items.shape[1]),
            **differences(rounded, items),
            **lost,
        }
        candidates.append(Candidate(precision, size, {name: lost[f"{name}_delta"] for name in METRICS}))
    selected = (
        select(candidates, config.max_loss, "")
        if config.vectors == "auto"
        else configured(config.vectors, candidates, config.max_loss, "vectors")
    )
    chosen = next(each for each in PRECISIONS if each == selected.name)
    report = {
        "chosen": chosen,
        "why": selected.why,
        "max_loss": config.max_loss,
        "variants": figures,
        "not_chosen": selected.rejections,
        "judged_on": sample.summary(),
        "together": losses(metrics[chosen], sample.baseline, config.seed),
    }
    return StoredVectors(chosen, report)


def calibration(
    data: TrainingData, side: Side, inputs: TowerInputs, config: PrecisionConfig
) -> Iterator[Arrays]:
    """Batches of a tower's inputs from training records, for the range of its layers."""
    values = data.sample(side, "train", config.calibration, config.seed)
    total = len(next(iter(values.values())))
    for at in range(0, total, CALIBRATION_BATCH):
        yield inputs.to_arrays({name: each[at : at + CALIBRATION_BATCH] for name, each in values.items()})


def _make(
    exported: ExportedTower, sample: QualitySample, config: PrecisionConfig, folder: Path, console: Console
) -> Variants:
    side = exported.side
    setting = getattr(config, side)
    wanted = [name for name in VARIANTS if setting in ("auto", name)]
    with console.status(f"variants of the {side} tower"):
        batches = partial(calibration, sample.data, side, exported.inputs, config)
        left_out: dict[Variant, str] = {}
        if setting == "auto" and sample.is_small:
            left_out = {name: TOO_SMALL for name in VARIANTS if RECIPES[name].manual}
        made = make_variants(exported.path, folder, batches, wanted, left_out)
    if setting != "auto" and setting in made.skipped:
        raise ConfigError(
            f"precision.{side}: {setting} cannot be made of this tower: {made.skipped[setting]}"
        )
    return made


def _candidate(name: str, measured: MeasuredVariant, batch: int) -> Candidate:
    figures = measured.figures
    deltas = {metric: figures[f"{metric}_delta"] for metric in METRICS}
    return Candidate(name, figures["size_bytes"], deltas, figures["latency"][str(batch)]["p50_us"])


def _dense_tolerance(exported: ExportedTower, path: Path, tower: Tower, sample: QualitySample) -> float:
    """The tolerance of int8 layers against torch in float32, rounded up to one digit."""
    values = sample.data.sample(exported.side, "test", RECORDS, seed=0)
    found = parity.check(
        exported.side, exported.inputs, onnx_encoder(path), torch_encoder(tower), values, math.inf
    )
    return _round_up(TOLERANCE_FACTOR * found["max_abs_diff"])


def _round_up(value: float) -> float:
    """The next number of one significant digit."""
    if value <= 0:
        return 0.0
    power = math.floor(math.log10(value))
    return float(f"{math.ceil(value / 10.0**power)}e{power}")


def _report(
    made: Variants,
    measured: Mapping[Variant, MeasuredVariant],
    selected: Selection,
    batch: int,
    config: PrecisionConfig,
    sample: QualitySample,
) -> dict[str, Any]:
    return {
        "chosen": selected.name,
        "why": selected.why,
        "batch": batch,
        "max_loss": config.max_loss,
        "variants": {name: each.figures for name, each in measured.items()},
        "not_chosen": selected.rejections,
        "not_made": dict(made.skipped),
        "tables": list(made.tables),
        "dense_layers": list(made.layers),
        "judged_on": sample.summary(),
    }


def _bytes_per_item(precision: Precision, dimension: int) -> int:
    """Of one row, including its scale."""
    types = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
    scale = 4 if precision == "int8" else 0
    return dimension * np.dtype(types[precision]).itemsize + scale
