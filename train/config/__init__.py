"""An experiment: one TOML file, read once, checked whole, frozen.

    experiment = read_experiment(Path("train/configs/pydocs.toml"))

Every stage reads the same file and takes its own section: `[data] [split] [query] [item]` say what is
learned from, `[tower] [loss] [training]` how, `[export] [index]` what becomes of it, and `[gates]` whether
that is fit to be served.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos import config, names
from protos.features import FeatureSpec, HistoryFeature, IdFeature, TextFeature
from train.config.bench import BenchConfig
from train.config.data import DebianData, FilesData, MovielensData, PydocsData, SplitConfig
from train.config.events import EventsData
from train.config.index import IndexConfig
from train.config.losses import Bce, Bpr, FullSoftmax, Hinge, InBatchSoftmax, Loss, SampledSoftmax
from train.config.precision import PrecisionConfig
from train.config.stages import ExportConfig, GatesConfig, TrainingConfig
from train.config.towers import BagTower, DssmTower, SequenceTower, SharedTower, TowerConfig

__all__ = [
    "BagTower",
    "Bce",
    "BenchConfig",
    "Bpr",
    "DebianData",
    "DssmTower",
    "EventsData",
    "Experiment",
    "ExportConfig",
    "FilesData",
    "FullSoftmax",
    "GatesConfig",
    "Hinge",
    "InBatchSoftmax",
    "IndexConfig",
    "Loss",
    "MovielensData",
    "PrecisionConfig",
    "PydocsData",
    "SampledSoftmax",
    "SequenceTower",
    "SharedTower",
    "SplitConfig",
    "TowerConfig",
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
    data: PydocsData | DebianData | FilesData | MovielensData | EventsData
    query: dict[str, FeatureSpec]
    item: dict[str, FeatureSpec]
    tower: TowerConfig
    loss: Loss
    split: SplitConfig = field(default_factory=SplitConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    examples: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        try:
            names.model_name(self.name)
        except ValueError as error:
            raise ValueError(f"name: {error}") from None
        _check_features(self.query, self.item)
        _check_latent(self.tower, self.query, self.item)
        for n, example in enumerate(self.examples):
            unknown = set(example) - set(self.query)
            if unknown or not example:
                raise ValueError(f"examples[{n}]: expected values of {sorted(self.query)}, got {example}")


def _check_features(query: dict[str, FeatureSpec], item: dict[str, FeatureSpec]) -> None:
    """Each side has something to say, and nothing that belongs to the other."""
    if not any(isinstance(spec, TextFeature | HistoryFeature) for spec in query.values()):
        raise ValueError('query: expected at least one feature of kind "text" or "history"')
    if not item:
        raise ValueError("item: expected at least one feature")
    for side, features, foreign in (("query", query, IdFeature), ("item", item, HistoryFeature)):
        for name, spec in features.items():
            if isinstance(spec, foreign):
                raise ValueError(f'{side}.{name}: a feature of kind "{spec.kind}" is of the other side')
    if sum(isinstance(spec, HistoryFeature) for spec in query.values()) > 1:
        raise ValueError("query: expected at most one history")
    if sum(isinstance(spec, IdFeature) for spec in item.values()) > 1:
        raise ValueError("item: expected at most one id")


def _check_latent(tower: TowerConfig, query: dict[str, FeatureSpec], item: dict[str, FeatureSpec]) -> None:
    """EASE goes from the items of a history to an item: without either there is nothing to start as."""
    if not isinstance(tower, SequenceTower) or not tower.latent:
        return
    told = any(isinstance(spec, HistoryFeature) for spec in query.values())
    if not told or not any(isinstance(spec, IdFeature) for spec in item.values()):
        raise ValueError("tower.latent: expected 0 without a history and an id")


def read_experiment(path: Path) -> Experiment:
    """The experiment that a TOML file describes.

    Raises:
        ConfigError: the file is missing, is not TOML, or does not fit; the text names file and key.
    """
    return config.read(path, Experiment)
