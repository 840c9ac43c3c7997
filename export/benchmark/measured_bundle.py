"""The bundle that a bench measures, and the settings of the measurements."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from protos.bundle import Manifest, Variant
from protos.features import Side
from train.config import Experiment
from train.data.training_data import TrainingData


class MeasuredBundle(NamedTuple):
    """A verified bundle and its experiment, whose `[bench]` are the settings.

    `data` loads the data; it is called only where the towers are measured.
    """

    folder: Path
    manifest: Manifest
    experiment: Experiment
    data: Callable[[], TrainingData]

    def variant(self, side: Side) -> Variant:
        """The variant of a tower in the bundle."""
        own = self.manifest.precision
        return own.query if side == "query" else own.item
