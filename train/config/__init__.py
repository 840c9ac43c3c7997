"""An experiment: one TOML file, read once, checked whole, frozen.

    experiment = read_experiment(Path("train/configs/pydocs.toml"))

Every stage reads the same file and takes its own section: `[data] [split] [query] [item]` say what is
learned from, `[tower] [loss] [training]` how, `[export] [index]` what becomes of it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos import config
from protos.features import FeatureSpec, TextFeature
from train.config.data import DebianData, FilesData, PydocsData, SplitConfig
from train.config.losses import InBatchSoftmax, SampledSoftmax
from train.config.stages import ExportConfig, IndexConfig, TrainingConfig
from train.config.towers import BagTower, DssmTower

__all__ = [
    "BagTower",
    "DebianData",
    "DssmTower",
    "Experiment",
    "ExportConfig",
    "FilesData",
    "InBatchSoftmax",
    "IndexConfig",
    "PydocsData",
    "SampledSoftmax",
    "SplitConfig",
    "TrainingConfig",
    "read_experiment",
]


@dataclass(frozen=True)
class Experiment:
    """One experiment's TOML.

    Args:
        name: of the MLflow experiment and of the registered model.
        examples: queries to show, feature name -> value; the demo asks the first five.
    """

    name: str
    data: PydocsData | DebianData | FilesData
    query: dict[str, FeatureSpec]
    item: dict[str, FeatureSpec]
    tower: BagTower | DssmTower
    loss: InBatchSoftmax | SampledSoftmax
    split: SplitConfig = field(default_factory=SplitConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    examples: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name: expected letters, digits, '.', '_' and '-', got {self.name!r}")
        for side in ("query", "item"):
            if not any(isinstance(spec, TextFeature) for spec in getattr(self, side).values()):
                raise ValueError(f'{side}: expected at least one feature of kind "text"')
        for n, example in enumerate(self.examples):
            if set(example) != set(self.query):
                raise ValueError(f"examples[{n}]: expected a value for each of {sorted(self.query)}")


def read_experiment(path: Path) -> Experiment:
    """The experiment that a TOML file describes.

    Raises:
        ConfigError: the file is missing, is not TOML, or does not fit; the text names file and key.
    """
    return config.read(path, Experiment)
