"""A tiny tower as what encodes items, without the imports of the tests that use it."""

from pathlib import Path

from tests.helpers.tiny_towers import DIMENSION, PLAIN
from twinspire.export.encoding.encoding import ItemTower
from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.protos.features import TowerInputs


def tower_at(path: Path) -> ItemTower:
    """The item tower that `write_tower` has written."""
    return ItemTower(path, TowerInputs("item", PLAIN, {}), DIMENSION, onnx_encoder(path))
