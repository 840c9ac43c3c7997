"""Click towers as ONNX files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
import torch

from twinspire.export.onnx import parity
from twinspire.export.onnx.export import export_tower, frozen
from twinspire.export.onnx.runtimes import Encode, onnx_encoder, torch_encoder
from twinspire.export.quantization import round_tables
from twinspire.export.quantization.tables import with_stored_tables
from twinspire.protos.features import (
    Arrays,
    CategoryFeature,
    HistoryFeature,
    IdFeature,
    NumberFeature,
    Schema,
)
from twinspire.train.config.towers import ClicksTower
from twinspire.train.models.tower_factory import Towers, architecture_of
from twinspire.train.models.towers import Tower

CONFIG = ClicksTower("clicks", dimension=5, crosses=True, characters=())
KNOWN = tuple(f"i{n}" for n in range(9))
SCHEMA = Schema(
    {
        "history": HistoryFeature("history", max_length=4),
        "skipped": HistoryFeature("negative_history", max_length=4),
        "user": CategoryFeature("category", "user"),
    },
    {
        "id": IdFeature("id"),
        "shop": CategoryFeature("category", "shop"),
        "price": NumberFeature("number", "price"),
    },
    {"query.user": ("ann", "ben"), "items": KNOWN, "item.shop": ("a", "b")},
)
COLUMNS: Mapping[str, Mapping[str, list[Any]]] = {
    "query": {
        "history": [["i1"], [], ["i2", "i3", "never", "i4", "i5", "i6"], None] * 3,
        "skipped": [[], ["i7"], ["i8"]] * 4,
        "user": ["ann", "ben", "new", None, "ann", "new"] * 2,
    },
    "item": {
        "id": ["i0", "i3", "new", None, "i8", "other"],
        "shop": ["a", "b", "a", None, "c", "b"],
        "price": [1.0, -2.5, 1.0, None, 8.0, 0.0],
    },
}
Side = Literal["query", "item"]
SIDES: tuple[Side, ...] = ("query", "item")


def built() -> Towers:
    """Towers away from their start."""
    torch.manual_seed(0)
    towers = architecture_of(CONFIG).build(SCHEMA)
    with torch.no_grad():
        for parameter in {each for tower in towers for each in tower.parameters()}:
            parameter.add_(0.5 * torch.randn_like(parameter))
        towers[1].head.radius.fill_(6.0)  # type: ignore[operator]
    return towers


@dataclass(frozen=True)
class Exported:
    """One tower in both forms, and its inputs."""

    side: Side
    tower: Tower
    path: Path
    onnx: Encode
    arrays: Arrays


@pytest.fixture(scope="module", params=SIDES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    side: Side = request.param
    tower, inputs = frozen(built()[SIDES.index(side)]), SCHEMA.side(side)
    two = {name: values[:2] for name, values in COLUMNS[side].items()}
    path = tmp_path_factory.mktemp("clicks") / "tower.onnx"
    export_tower(tower, inputs.features, inputs.to_arrays(two), path)
    return Exported(side, tower, path, onnx_encoder(path), inputs.to_arrays(COLUMNS[side]))


def test_torch_and_onnx_runtime_agree(both: Exported) -> None:
    inputs, values = SCHEMA.side(both.side), COLUMNS[both.side]
    report = parity.check(both.side, inputs, both.onnx, torch_encoder(both.tower), values, 1e-5)
    assert report["records"] > 3 * len(next(iter(values.values())))
    assert both.onnx(both.arrays).shape[1] == CONFIG.dimension + 3


def test_tables_can_be_stored_in_int8(
    both: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinspire.export.quantization.tables.MIN_BYTES", 1)
    onnx.save_model(with_stored_tables(onnx.load(both.path), "int8"), tmp_path / "int8.onnx")
    found = onnx_encoder(tmp_path / "int8.onnx")(both.arrays)
    rounded = torch_encoder(round_tables(both.tower, "int8_tables"))(both.arrays)
    np.testing.assert_allclose(found, rounded, atol=1e-5)
    assert np.abs(found - both.onnx(both.arrays)).max() > 2e-5
