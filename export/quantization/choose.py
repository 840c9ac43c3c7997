"""Chooses the variant of each tower.

Variants are tried from the smallest to the largest, and the first one within the bound on the loss is chosen.
Latency does not decide: the variants of a tower differ in its look-ups alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.export.quantization.sample import BothVectors, PerQuery, QualitySample, Vectors, draw_sample
from twinspire.export.quantization.tables import MIN_BYTES, make_variants, round_tables
from twinspire.protos.bundle import TableVariant
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import Side, TowerInputs
from twinspire.train.config.bundle import PrecisionConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.metrics import HEADLINE, metric_label
from twinspire.train.models.towers import Tower
from twinspire.train.progress import PROGRESS

PLAIN: Literal["fp32"] = "fp32"  # what all others are compared with
NO_TABLES = f"no table of at least {MIN_BYTES // 2**10} KiB is looked up"

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class ExportedTower:
    """A tower in torch and as an ONNX file.

    Args:
        tower: for inference, with the same rounded tables as the file.
        path: the ONNX file.
        variant: of both.
    """

    side: Side
    inputs: TowerInputs
    tower: Tower
    path: Path
    variant: TableVariant = PLAIN


@dataclass(frozen=True)
class ChosenPrecision:
    """What a bundle stores.

    Args:
        towers: in the chosen variants.
        report: `query` and `item`: size and quality of float32 and of what was tried, and the reasons.
    """

    towers: dict[Side, ExportedTower]
    report: dict[str, Any]


def choose_precision(
    towers: Mapping[Side, ExportedTower],
    data: TrainingData,
    config: PrecisionConfig,
    folder: Path,
    all_items: Callable[[Path], Vectors],
) -> ChosenPrecision:
    """Choose the variant of each tower.

    Args:
        towers: in float32.
        data: has the validation queries, and the items to search.
        folder: receives the files of the variants.
        all_items: vectors (N, D) of all items by the item tower in a file. It is called for the variant that
            is tried first, which mostly ships, so a caller that keeps the vectors encodes each item once.

    Raises:
        ConfigError: the configured variant cannot be made of a tower.
    """
    sample = draw_sample(data, config)
    with PROGRESS.status("variants of the towers"):
        files = {side: make_variants(each.path, folder) for side, each in towers.items()}
    likely = next((files["item"][name] for name in _tried(config.item, _sizes(files["item"]))), None)

    def encoded(tower: ExportedTower) -> Vectors:
        if tower.path == likely:
            return np.asarray(all_items(tower.path)[sample.items])
        encode = onnx_encoder(tower.path, threads=0)
        return sample.encode(tower.side, tower.variant, tower.inputs, encode)

    plain: BothVectors = {side: encoded(each) for side, each in towers.items()}
    chosen, vectors, report = dict(towers), plain, dict[str, Any]()
    for side, each in towers.items():
        chosen[side], own, report[side] = _choose_tower(each, files[side], sample, plain, config, encoded)
        vectors = {**vectors, side: own[side]}
    return ChosenPrecision(chosen, report)


def _choose_tower(
    tower: ExportedTower,
    files: Mapping[TableVariant, Path],
    sample: QualitySample,
    plain: BothVectors,
    config: PrecisionConfig,
    encoded: Callable[[ExportedTower], Vectors],
) -> tuple[ExportedTower, BothVectors, dict[str, Any]]:
    """The chosen variant, the sample's vectors with this variant of the tower, and the report.

    Args:
        files: of the variants of the tower, float32 first.
        plain: the sample's vectors by both towers in float32.
        encoded: the sample's vectors by a variant.
    """
    side, setting = tower.side, getattr(config, tower.side)
    if setting not in ("auto", *files):
        raise ConfigError(f"precision.{side}: {setting} cannot be made of this tower: {NO_TABLES}")

    def vectors_of(name: TableVariant) -> BothVectors:
        return {**plain, side: encoded(replace(tower, path=files[name], variant=name))}

    name, vectors, report = first_within(side, config, _sizes(files), plain, vectors_of, sample)
    rounded = round_tables(tower.tower, name)
    return replace(tower, tower=rounded, path=files[name], variant=name), vectors, report


def _sizes(files: Mapping[TableVariant, Path]) -> dict[TableVariant, int]:
    return {name: path.stat().st_size for name, path in files.items()}


def _tried(setting: str, sizes: Mapping[Name, int]) -> list[Name]:
    """The names that a setting of `[precision]` allows, from the smallest on."""
    return [name for name in sorted(sizes, key=sizes.__getitem__) if setting in ("auto", name)]


def first_within(
    key: str,
    config: PrecisionConfig,
    sizes: Mapping[Name, int],
    plain: BothVectors,
    vectors_of: Callable[[Name], BothVectors],
    sample: QualitySample,
) -> tuple[Name, BothVectors, dict[str, Any]]:
    """Try variants from the smallest on, and take the first one within the bound.

    Args:
        key: of `config`: `auto`, or the only variant to try, which is taken whatever it loses.
        sizes: name -> bytes; float32, which loses nothing, comes first.
        plain: the sample's vectors in float32.
        vectors_of: the sample's vectors by a variant.

    Returns:
        the name, its vectors, and the report.
    """
    setting, bound = getattr(config, key), config.max_loss
    baseline, first = sample.metrics(plain), next(iter(sizes))

    def figures(name: Name, metrics: PerQuery) -> dict[str, Any]:
        share = sizes[name] / sizes[first]
        return {"size_bytes": sizes[name], "size_share": share, **sample.losses(metrics, baseline)}

    tried = {first: figures(first, baseline)}
    for name in _tried(setting, sizes):
        vectors = plain if name == first else vectors_of(name)
        if name != first:
            tried[name] = figures(name, sample.metrics(vectors))
        if not _excess_loss(tried[name], bound):
            break
    excess = {each: _excess_loss(found, bound) for each, found in tried.items()}
    report = {
        "chosen": name,
        "why": f"{name}: {_why(key, setting, name == first, len(sizes) == 1, excess[name])}",
        "max_loss": bound,
        "variants": tried,
        "refused": {each: text for each, text in excess.items() if text and each != name},
    }
    return name, vectors, report


def _why(key: str, setting: str, is_plain: bool, is_only: bool, excess: str) -> str:
    """The reason for a variant, in words."""
    if setting != "auto":
        return f"set by precision.{key}" + (f", although {excess}" if excess else "")
    if not is_plain:
        return "the smallest within the bound"
    return NO_TABLES if is_only else "no smaller one is within the bound"


def _excess_loss(figures: Mapping[str, float], bound: float) -> str:
    """The largest loss of a metric in words, if it is above the bound; else empty."""
    worst = min(HEADLINE, key=lambda metric: figures[f"{metric}_delta"])
    loss = -figures[f"{worst}_delta"]
    return f"{metric_label(worst)} falls by {loss:.4f}, more than {bound:g}" if loss > bound else ""
