"""Exports both towers as they will be served: to ONNX in the chosen precision, checked against torch.

The towers are exported in float32 first, and the precision is chosen. The chosen variant is compared with a
torch tower whose tables are rounded in the same way, and timed beside it.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from twinspire.export.benchmark.towers import TowerForms, measure_towers, torch_threads
from twinspire.export.encoding.encoding import EncodedFile, ItemTower, encode_once
from twinspire.export.encoding.records import ColumnRecords
from twinspire.export.onnx import parity
from twinspire.export.onnx.export import export_tower, frozen
from twinspire.export.onnx.runtimes import LARGEST_BATCH, onnx_encoder, torch_encoder
from twinspire.export.quantization import ExportedTower, choose_precision
from twinspire.protos import bundle
from twinspire.protos.features import SIDES, Side
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData
from twinspire.train.progress import PROGRESS
from twinspire.train.training.trained_model import Model

SAMPLE = 500  # test records for parity and latency, or fewer if they have more than `CHARACTERS`
CHARACTERS = 16 * LARGEST_BATCH


class TowerExporter:
    """Exports both towers of a trained model.

    Args:
        data: has the records to measure on.
    """

    def __init__(self, experiment: Experiment, model: Model, data: TrainingData) -> None:
        self.experiment, self.model, self.data = experiment, model, data

    def export(self, folder: Path, scratch: Path) -> tuple[dict[Side, ExportedTower], dict[str, Any]]:
        """Write both towers into `folder`, and their variants into `scratch`.

        Returns:
            The towers as they will be served, and the reports `parity`, `precision` and `latency`.

        Raises:
            GateRefused: torch and ONNX Runtime differ by more than the tolerance.
            ConfigError: the configured variant cannot be made of a tower.
        """
        plain = {side: self._export(side, scratch) for side in SIDES}
        own, items = (self.experiment.precision, scratch), self.data.items
        chosen = choose_precision(plain, self.data, *own, lambda path: self.encode_items(path, items).vectors)
        served = {
            side: replace(each, path=shutil.copyfile(each.path, folder / bundle.TOWERS[side]))
            for side, each in chosen.towers.items()
        }
        parities = {side: self._parity(each) for side, each in served.items()}
        return served, {"parity": parities, "precision": chosen.report, "latency": self._latency(served)}

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
        return encode_once(self.experiment.name, tower, records)

    def sample(self, side: Side, count: int = SAMPLE) -> dict[str, list[Any]]:
        """Raw values of test records, fewer than `count` if they are long: feature name -> values."""
        values: dict[str, list[Any]] = self.data.sample(side, "test", count, seed=0)
        lengths = self.model.schema.side(side).lengths(values, len(next(iter(values.values()))))
        most = max(1, int(np.searchsorted(np.cumsum(lengths), CHARACTERS, side="right")))
        return {name: column[:most] for name, column in values.items()}

    def _export(self, side: Side, folder: Path) -> ExportedTower:
        tower = frozen(self.model.towers[SIDES.index(side)])
        inputs, path = self.model.schema.side(side), folder / bundle.TOWERS[side]
        with PROGRESS.status(f"exporting the {side} tower"):
            one = self.sample(side, 1)
            example = inputs.to_arrays({name: value * 2 for name, value in one.items()})
            export_tower(tower, inputs.features, example, path)
        return ExportedTower(side, inputs, tower, path)

    def _parity(self, each: ExportedTower) -> dict[str, Any]:
        """Compare a file with the tower in torch, whose tables are rounded as in the file."""
        # Torch's idle threads spin: on a busy machine two take up to 20 times as much processor time as one.
        threads = self.experiment.export.threads
        with torch_threads(threads), PROGRESS.status(f"parity of the {each.side} tower"):
            return parity.check(
                each.side,
                each.inputs,
                onnx_encoder(each.path, threads),
                torch_encoder(each.tower),
                self.sample(each.side),
                self.experiment.export.parity_tolerance,
            )

    def _latency(self, served: Mapping[Side, ExportedTower]) -> dict[str, Any]:
        forms = {
            side: TowerForms(each.inputs, each.tower, each.path, self.sample(side))
            for side, each in served.items()
        }
        return measure_towers(forms, self.experiment.export)
