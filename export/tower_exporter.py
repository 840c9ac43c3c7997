"""Exports both towers as they will be served: to ONNX, checked against torch, in the chosen precision.

The towers are exported in float32 first and compared with torch. Then their variants of lower precision are
measured. The chosen variant is compared with a torch tower whose tables were rounded in the same way.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from export import quantization
from export.benchmark.figures import PLAIN, SERVED
from export.benchmark.towers import TowerForms, manifest_latency
from export.onnx import parity
from export.onnx.export import export_tower, frozen
from export.onnx.runtimes import Encode, onnx_encoder, torch_encoder
from protos import bundle
from protos.features import SIDES, Side, TowerInputs
from train.config import Experiment
from train.data.training_data import TrainingData
from train.models.towers import Tower
from train.training.trained_model import Model

SAMPLE = 500  # test records for parity and latency
SMALL_SAMPLE, SMALL_CALLS = 100, 100  # records, and timed calls, where the catalogue is small


@dataclass(frozen=True)
class ServedTower:
    """One tower in torch and as an ONNX file.

    Args:
        tower: in torch, with the same rounded tables as the file.
        path: the ONNX file.
        onnx: that file, loaded.
        precision: name of its variant.
    """

    side: Side
    inputs: TowerInputs
    tower: Tower
    path: Path
    onnx: Encode
    precision: bundle.Variant


@dataclass(frozen=True)
class ExportedTowers:
    """Both towers and their measurements.

    Args:
        served: by side.
        vectors: the precision in which item vectors are stored.
        reports: `parity`, `precision` and `latency`.
        figures: name -> plot.
    """

    served: dict[Side, ServedTower]
    vectors: quantization.StoredVectors
    reports: dict[str, dict[str, Any]]
    figures: dict[str, Figure]


class TowerExporter:
    """Exports both towers of a trained model.

    Args:
        data: has the records to measure on.
        has_padding_dim: the last coordinate of an item vector only pads it to unit length.
        console: receives progress.
        details: receives what is found along the way.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Model,
        data: TrainingData,
        has_padding_dim: bool,
        console: Console,
        details: Console,
    ) -> None:
        self.experiment, self.model, self.data = experiment, model, data
        self.has_padding_dim, self.console, self.details = has_padding_dim, console, details
        self.records, self.settings = SAMPLE, experiment.export
        if data.item_count <= quantization.SMALL_CATALOGUE:
            calls = min(SMALL_CALLS, experiment.export.iterations)
            self.records, self.settings = SMALL_SAMPLE, replace(experiment.export, iterations=calls)

    def export(self, folder: Path, scratch: Path) -> ExportedTowers:
        """Write both towers into `folder`, and their variants into `scratch`.

        Raises:
            GateRefused: torch and ONNX Runtime differ by more than the tolerance.
            ConfigError: the configured variant cannot be made of a tower.
        """
        plain = {side: self._export(side, scratch) for side in SIDES}
        before = {side: self._parity(each) for side, each in plain.items()}
        served, vectors, report = self._choose(plain, folder, scratch)
        found: dict[str, Any] = {
            side: before[side] | {PLAIN: before[side]}  # the same file
            if each.precision == PLAIN
            else self._parity(each) | {PLAIN: before[side]}
            for side, each in served.items()
        }
        latency, figure = self._latency(plain, served)
        figures = {"latency": figure, "precision": quantization.size_latency_and_quality(report)}
        reports: dict[str, dict[str, Any]] = {
            "parity": found,
            "precision": report,
            "latency": latency,
        }
        return ExportedTowers(served, vectors, reports, figures)

    def sample(self, side: Side, count: int) -> dict[str, list[Any]]:
        """Raw values of test records: feature name -> values."""
        return self.data.sample(side, "test", count, seed=0)

    def _export(self, side: Side, folder: Path) -> ServedTower:
        tower = frozen(self.model.towers[SIDES.index(side)])
        inputs, path = self.model.schema.side(side), folder / bundle.TOWERS[side]
        with self.console.status(f"exporting the {side} tower"):
            one = self.sample(side, 1)
            example = inputs.to_arrays({name: value * 2 for name, value in one.items()})
            nodes = export_tower(tower, inputs.features, example, path)
        size = path.stat().st_size / 2**20
        self.details.print(f"{side} tower: {nodes} nodes, {size:.1f} MiB in float32", highlight=False)
        return self._load(side, tower, path, PLAIN)

    def _load(self, side: Side, tower: Tower, path: Path, variant: bundle.Variant) -> ServedTower:
        onnx = onnx_encoder(path, self.experiment.export.threads)
        return ServedTower(side, self.model.schema.side(side), tower, path, onnx, variant)

    def _parity(self, each: ServedTower) -> dict[str, Any]:
        with self.console.status(f"parity of the {each.side} tower"):
            return parity.check(
                each.side,
                each.inputs,
                each.onnx,
                torch_encoder(each.tower),
                self.sample(each.side, self.records),
                self.experiment.export.parity_tolerance,
            )

    def _choose(
        self, plain: Mapping[Side, ServedTower], folder: Path, scratch: Path
    ) -> tuple[dict[Side, ServedTower], quantization.StoredVectors, dict[str, Any]]:
        config, console = self.experiment.precision, self.console
        small = self.data.item_count <= quantization.SMALL_CATALOGUE
        encoders = {
            side: (each.inputs, each.onnx if small else onnx_encoder(each.path, 0))
            for side, each in plain.items()
        }
        sample = quantization.draw_sample(self.data, encoders, config, console)
        chosen: dict[Side, quantization.ChosenVariant] = {}
        served: dict[Side, ServedTower] = {}
        for side, each in plain.items():
            exported = quantization.ExportedTower(side, each.inputs, each.tower, each.path)
            found = quantization.choose_tower(exported, sample, config, self.settings, scratch, console)
            path = shutil.copyfile(found.path, folder / bundle.TOWERS[side])
            chosen[side] = found
            if found.variant == PLAIN:
                served[side] = replace(each, tower=found.tower, path=path)
            else:
                served[side] = self._load(side, found.tower, path, found.variant)
            self.details.print(f"{side} tower: {found.report['why']}", highlight=False, soft_wrap=True)
        both = chosen["query"].vectors, chosen["item"].vectors
        stored = quantization.choose_vectors(sample, *both, self.has_padding_dim, config)
        report: dict[str, Any] = {side: each.report for side, each in chosen.items()}
        return served, stored, report | {"vectors": stored.report}

    def _latency(
        self, plain: Mapping[Side, ServedTower], served: Mapping[Side, ServedTower]
    ) -> tuple[dict[str, Any], Figure]:
        with self.console.status("latency of both towers"):
            forms = {
                side: TowerForms(
                    each.inputs,
                    each.tower,
                    {PLAIN: plain[side].path, SERVED: each.path},
                    self.sample(side, self.records),
                )
                for side, each in served.items()
            }
            return manifest_latency(forms, self.settings)
