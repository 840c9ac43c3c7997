"""Exports both towers as they will be served: to ONNX in the chosen precision, checked against torch.

The towers are exported in float32 first, and the precision is chosen. The chosen variant is compared with a
torch tower whose tables are rounded in the same way, and timed beside it.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from twinspire.export.benchmark.towers import TowerForms, manifest_latency
from twinspire.export.onnx import parity
from twinspire.export.onnx.export import export_tower, frozen
from twinspire.export.onnx.runtimes import Encode, onnx_encoder, torch_encoder
from twinspire.export.quantization import ExportedTower, choose_precision
from twinspire.protos import bundle
from twinspire.protos.features import SIDES, Side, TowerInputs
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.towers import Tower
from twinspire.train.training.trained_model import Model

SAMPLE = 500  # test records for parity and latency


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
    """

    served: dict[Side, ServedTower]
    vectors: bundle.Precision
    reports: dict[str, dict[str, Any]]


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

    def export(self, folder: Path, scratch: Path) -> ExportedTowers:
        """Write both towers into `folder`, and their variants into `scratch`.

        Raises:
            GateRefused: torch and ONNX Runtime differ by more than the tolerance.
            ConfigError: the configured variant cannot be made of a tower.
        """
        plain = {side: self._export(side, scratch) for side in SIDES}
        precision = self.experiment.precision
        chosen = choose_precision(plain, self.data, precision, self.has_padding_dim, scratch, self.console)
        for side in SIDES:
            why = chosen.report[side]["why"]
            self.details.print(f"{side} tower: {why}", highlight=False, soft_wrap=True)
        served = {side: self._serve(each, folder) for side, each in chosen.towers.items()}
        parities: dict[str, Any] = {side: self._parity(each) for side, each in served.items()}
        reports = {"parity": parities, "precision": chosen.report, "latency": self._latency(served)}
        return ExportedTowers(served, chosen.vectors, reports)

    def sample(self, side: Side, count: int) -> dict[str, list[Any]]:
        """Raw values of test records: feature name -> values."""
        return self.data.sample(side, "test", count, seed=0)

    def _export(self, side: Side, folder: Path) -> ExportedTower:
        tower = frozen(self.model.towers[SIDES.index(side)])
        inputs, path = self.model.schema.side(side), folder / bundle.TOWERS[side]
        with self.console.status(f"exporting the {side} tower"):
            one = self.sample(side, 1)
            example = inputs.to_arrays({name: value * 2 for name, value in one.items()})
            nodes = export_tower(tower, inputs.features, example, path)
        size = path.stat().st_size / 2**20
        self.details.print(f"{side} tower: {nodes} nodes, {size:.1f} MiB in float32", highlight=False)
        return ExportedTower(side, inputs, tower, path)

    def _serve(self, each: ExportedTower, folder: Path) -> ServedTower:
        path = shutil.copyfile(each.path, folder / bundle.TOWERS[each.side])
        onnx = onnx_encoder(path, self.experiment.export.threads)
        return ServedTower(each.side, each.inputs, each.tower, path, onnx, each.variant)

    def _parity(self, each: ServedTower) -> dict[str, Any]:
        with self.console.status(f"parity of the {each.side} tower"):
            return parity.check(
                each.side,
                each.inputs,
                each.onnx,
                torch_encoder(each.tower),
                self.sample(each.side, SAMPLE),
                self.experiment.export.parity_tolerance,
            )

    def _latency(self, served: Mapping[Side, ServedTower]) -> dict[str, Any]:
        with self.console.status("latency of both towers"):
            forms = {
                side: TowerForms(each.inputs, each.tower, each.path, self.sample(side, SAMPLE))
                for side, each in served.items()
            }
            return manifest_latency(forms, self.experiment.export)
