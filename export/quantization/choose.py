"""Chooses the variant of a tower, and the precision of the stored item vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console

from export.quantization.measure import (
    MeasuredVariant,
    QualitySample,
    Vectors,
    differences,
    losses,
    measure,
)
from export.quantization.selection import Candidate, Selection, configured, select
from export.quantization.variants import VARIANTS, Variants, make_variants, round_tables
from protos.bundle import Precision, TableVariant
from protos.errors import ConfigError
from protos.features import Side, TowerInputs
from protos.vectors import rounded_vectors
from train.config import ExportConfig
from train.config.precision import PrecisionConfig
from train.metrics import HEADLINE
from train.models.towers import Tower

DECISIVE_BATCH: Mapping[Side, int] = {"query": 1, "item": 32}  # batch size at which the fastest is chosen
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
        vectors: of the sample's queries or items, by this variant.
        report: the measurements of all variants, and the reason for this one.
    """

    variant: TableVariant
    path: Path
    tower: Tower
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
        export: threads and iterations for latency.
        folder: receives the variants' files.
        console: for progress.

    Raises:
        ConfigError: the configured variant cannot be made of this tower.
    """
    side, setting, batch = exported.side, getattr(config, exported.side), DECISIVE_BATCH[exported.side]
    made = _make(exported, config, folder, console)
    threads, iterations = export.threads, export.iterations
    measured = measure(
        side, exported.inputs, made.files, sample, batch, threads, iterations, config.seed, console
    )
    candidates = [_candidate(name, each) for name, each in measured.items()]
    if setting == "auto":
        selected = select(candidates, config.max_loss, f"at batch {batch}")
    else:
        selected = configured(setting, candidates, config.max_loss, side)
    variant = next(name for name in measured if name == selected.name)
    report = _report(made, measured, selected, batch, config, sample)
    tower = round_tables(exported.tower, variant)
    return ChosenVariant(variant, made.files[variant], tower, measured[variant].vectors, report)


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
        lost = losses(metrics[precision], plain, sample.clusters, config.seed)
        figures[precision] = {
            "bytes_per_item": size,
            "size_share": size / _bytes_per_item("fp32", items.shape[1]),
            **differences(rounded, items),
            **lost,
        }
        candidates.append(Candidate(precision, size, {name: lost[f"{name}_delta"] for name in HEADLINE}))
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
        "together": losses(metrics[chosen], sample.baseline, sample.clusters, config.seed),
    }
    return StoredVectors(chosen, report)


def _make(exported: ExportedTower, config: PrecisionConfig, folder: Path, console: Console) -> Variants:
    side = exported.side
    setting = getattr(config, side)
    wanted = [name for name in VARIANTS if setting in ("auto", name)]
    with console.status(f"variants of the {side} tower"):
        made = make_variants(exported.path, folder, wanted)
    if setting != "auto" and setting in made.skipped:
        raise ConfigError(
            f"precision.{side}: {setting} cannot be made of this tower: {made.skipped[setting]}"
        )
    return made


def _candidate(name: str, measured: MeasuredVariant) -> Candidate:
    figures = measured.figures
    deltas = {metric: figures[f"{metric}_delta"] for metric in HEADLINE}
    return Candidate(name, figures["size_bytes"], deltas, figures["latency"]["p50_us"])


def _report(
    made: Variants,
    measured: Mapping[TableVariant, MeasuredVariant],
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
        "judged_on": sample.summary(),
    }


def _bytes_per_item(precision: Precision, dimension: int) -> int:
    """Of one row, including its scale."""
    types = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}
    scale = 4 if precision == "int8" else 0
    return dimension * np.dtype(types[precision]).itemsize + scale
