"""Towers on texts as ONNX files, which several modules of tests read: an export takes a second or two."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from tests.helpers.shared import shared_folder
from tests.helpers.stdlib import DSSM, FEATURES, PLAIN, Sections, started, write_toml
from twinspire.export.onnx.export import export_tower, frozen
from twinspire.export.onnx.optimize import optimize
from twinspire.protos.features import SIDES, Arrays, FeatureSpec, Side
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.encoders import CategoryEncoder, HashedTextEncoder
from twinspire.train.models.towers import Tower
from twinspire.train.training.trained_model import Model

CHARACTERS = {"characters": [1, 2]}
KINDS: Mapping[str, Sections] = {
    "plain": PLAIN,
    "characters": {**PLAIN, "tower": {**PLAIN["tower"], **CHARACTERS}},
    "dssm": DSSM,
    "features": FEATURES,
}
AT_START = ("plain", "characters")  # kinds whose weights are those that a training starts with
TOWERS = "towers.pt"
SHORTEST: Mapping[str, list[Any]] = {
    "text": ["a", ""],
    "level": [None, None],
    "terms": [[], []],
    "words": [None, None],
}
# The other towers are exported with records as an example.
EXAMPLES: Mapping[tuple[str, Side], Mapping[str, list[Any]]] = {("features", "query"): SHORTEST}


@dataclass(frozen=True)
class Exported:
    """Two towers in both forms.

    Args:
        towers: side -> a copy for inference.
        folder: holds the files, and is shared between processes.
    """

    model: Model
    data: TrainingData
    towers: Mapping[Side, Tower]
    folder: Path

    def path(self, side: Side) -> Path:
        return self.folder / f"{side}.onnx"

    def unoptimised(self, side: Side) -> Path:
        """The file of a tower before `optimize`."""
        return unoptimised_path(self.path(side))


def exported(kind: str, stdlib: Path, factory: pytest.TempPathFactory) -> Exported:
    """The towers of one of `KINDS`."""

    def make(folder: Path) -> None:
        config = write_toml(stdlib, folder / "a.toml", sections=KINDS[kind])
        model, data, _ = started(config)
        if kind not in AT_START:
            move_weights(model.towers)
        towers = [frozen(tower) for tower in model.towers]
        for side, tower in zip(SIDES, towers, strict=True):
            inputs = model.schema.side(side)
            example = dict(EXAMPLES.get((kind, side)) or data.sample(side, "test", 2, seed=1))
            export_both(tower, inputs.features, inputs.to_arrays(example), folder / f"{side}.onnx")
        torch.save([tower.state_dict() for tower in towers], folder / TOWERS)

    folder = shared_folder(factory, f"exported-{kind}", make)
    model, data, _ = started(folder / "a.toml")
    for tower, weights in zip(model.towers, torch.load(folder / TOWERS), strict=True):
        tower.load_state_dict(weights)
    towers = {side: frozen(tower) for side, tower in zip(SIDES, model.towers, strict=True)}
    return Exported(model, data, towers, folder)


def move_weights(towers: tuple[Tower, Tower]) -> None:
    """Move the weights away from their start, where much is zero."""
    with torch.no_grad():
        # Each once, in their order: that of a set would draw other weights in each run.
        for weights in dict.fromkeys(each for tower in towers for each in tower.parameters()):
            weights.add_(0.1 * torch.randn_like(weights))
        for part in (part for tower in towers for part in tower.modules()):
            if isinstance(part, HashedTextEncoder):
                part.table[0], part.weights[0] = 0, 0  # nothing here
            elif isinstance(part, CategoryEncoder):
                part.embedding.weight[0] = 0


def unoptimised_path(path: Path) -> Path:
    """Where `export_both` writes the graph that is not optimised."""
    return path.with_name(f"unoptimised-{path.name}")


def export_both(tower: Tower, features: Mapping[str, FeatureSpec], example: Arrays, path: Path) -> None:
    """`export_tower`, which also writes the graph before `optimize`, at `unoptimised_path`."""

    def kept(model: onnx.ModelProto) -> onnx.ModelProto:
        onnx.save_model(model, unoptimised_path(path))
        return optimize(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinspire.export.onnx.export.optimize", kept)
        export_tower(tower, features, example, path)
