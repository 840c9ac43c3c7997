"""Exports both towers as they will be served: to ONNX in the chosen precision, checked against torch.

The towers are exported in float32 first, and the precision is chosen. The chosen variant is compared with a
torch tower whose tables are rounded in the same way, and timed beside it.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from twinspire.export.benchmark.towers import TowerForms, measure_towers, torch_threads
from twinspire.export.encoding import ColumnRecords, EncodedFile, ItemTower, encode_once
from twinspire.export.onnx import parity
from twinspire.export.onnx.export import export_tower, frozen
from twinspire.export.onnx.runtimes import LARGEST_BATCH, Encode, onnx_encoder, torch_encoder
from twinspire.export.quantization import ExportedTower, choose_precision
from twinspire.protos import bundle
from twinspire.protos.features import SIDES, Side, TowerInputs
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.towers import Tower
from twinspire.train.training.trained_model import Model

SAMPLE = 500  # test records for parity and latency, or fewer if they have more than `CHARACTERS`
CHARACTERS = 16 * LARGEST_BATCH


@dataclass(frozen=True)
class ServedTower:
    """One tower as an ONNX file.

    Args:
        path: the ONNX file.
        onnx: that file, loaded.
        precision: name of its variant.
    """

    side: Side
    inputs: TowerInputs
    path: Path
    onnx: Encode
    precision: bundle.Variant


@dataclass(frozen=True)
class ExportedTowers:
    """Both towers and their measurements.

    Args:
        served: by side.
        reports: `parity`, `precision` and `latency`.
    """

    served: dict[Side, ServedTower]
    reports: dict[str, dict[str, Any]]


class TowerExporter:
    """Exports both towers of a trained model.

    Args:
        data: has the records to measure on.
        console: receives progress.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Model,
        data: TrainingData,
        console: Console,
    ) -> None:
        self.experiment, self.model, self.data = experiment, model, data
        self.console = console

    def export(self, folder: Path, scratch: Path) -> ExportedTowers:
        """Write both towers into `folder`, and their variants into `scratch`.

        Raises:
            GateRefused: torch and ONNX Runtime differ by more than the tolerance.
            ConfigError: the configured variant cannot be made of a tower.
        """
        plain = {side: self._export(side, scratch) for side in SIDES}
        own, items = (self.experiment.precision, scratch, self.console), self.data.items
        chosen = choose_precision(plain, self.data, *own, lambda path: self.encode_items(path, items).vectors)
        served = {side: self._serve(each, folder) for side, each in chosen.towers.items()}
        rounded = {side: each.tower for side, each in chosen.towers.items()}
        parities: dict[str, Any] = {side: self._parity(each, rounded[side]) for side, each in served.items()}
        reports = {"parity": parities, "precision": chosen.report, "latency": self._latency(served, rounded)}
        return ExportedTowers(served, reports)

    def encode_items(
        self, path: Path, values: Mapping[str, Sequence[Any]], title: str = "items as evaluated"
    ) -> EncodedFile:
        """Items by the item tower in a file, once for each file and text.

        Args:
            values: feature name -> raw values.
        """
        inputs, encode = self.model.schema.side("item"), onnx_encoder(path, threads=0)
        dimension = encode(inputs.to_arrays(self.sample("item", 1))).shape[1]
        tower, records = ItemTower(path, inputs, dimension, encode), ColumnRecords(values, title)
        return encode_once(self.experiment.name, tower, records, self.console)

    def sample(self, side: Side, count: int = SAMPLE) -> dict[str, list[Any]]:
        """Raw values of test records, fewer than `count` if they are long: feature name -> values."""
        values: dict[str, list[Any]] = self.data.sample(side, "test", count, seed=0)
        lengths = self.model.schema.side(side).lengths(values, len(next(iter(values.values()))))
        most = max(1, int(np.searchsorted(np.cumsum(lengths), CHARACTERS, side="right")))
        return {name: column[:most] for name, column in values.items()}

    def _export(self, side: Side, folder: Path) -> ExportedTower:
        tower = frozen(self.model.towers[SIDES.index(side)])
        inputs, path = self.model.schema.side(side), folder / bundle.TOWERS[side]
        with self.console.status(f"exporting the {side} tower"):
            one = self.sample(side, 1)
            example = inputs.to_arrays({name: value * 2 for name, value in one.items()})
            export_tower(tower, inputs.features, example, path)
        return ExportedTower(side, inputs, tower, path)

    def _serve(self, each: ExportedTower, folder: Path) -> ServedTower:
        path = shutil.copyfile(each.path, folder / bundle.TOWERS[each.side])
        onnx = onnx_encoder(path, self.experiment.export.threads)
        return ServedTower(each.side, each.inputs, path, onnx, each.variant)

    def _parity(self, each: ServedTower, tower: Tower) -> dict[str, Any]:
        """Compare a file with the tower in torch, whose tables are rounded as in the file."""
        # Torch's idle threads spin: on a busy machine two take up to 20 times as much processor time as one.
        threads = torch_threads(self.experiment.export.threads)
        with threads, self.console.status(f"parity of the {each.side} tower"):
            return parity.check(
                each.side,
                each.inputs,
                each.onnx,
                torch_encoder(tower),
                self.sample(each.side),
                self.experiment.export.parity_tolerance,
            )

    def _latency(self, served: Mapping[Side, ServedTower], rounded: Mapping[Side, Tower]) -> dict[str, Any]:
        forms = {
            side: TowerForms(each.inputs, rounded[side], each.path, self.sample(side))
            for side, each in served.items()
        }
        return measure_towers(forms, self.experiment.export)
