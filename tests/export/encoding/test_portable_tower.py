"""A tower that is sent to another machine reads the same arrays there, and leaves no files."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.export.encoding.test_windows import documents
from tests.helpers.item_tower import tower_at
from tests.helpers.pretrained import needs_tokenizers, write_tokenizer
from tests.helpers.tiny_towers import TinyTower, write_tower
from twinspire.export.encoding import WINDOW, ItemTower
from twinspire.export.encoding.encoding import encode_window
from twinspire.export.encoding.ray_cluster import encode_on_node, portable
from twinspire.export.onnx.runtimes import onnx_encoder
from twinspire.protos.errors import Unavailable
from twinspire.protos.features import CategoryFeature, FeatureSpec, IdFeature, TextFeature, TowerInputs

FEATURES: dict[str, FeatureSpec] = {
    "text": TextFeature("text", "text", max_length=8, input="tokens"),
    "tag": CategoryFeature("category", "tag"),
    "id": IdFeature("id"),
}


@pytest.fixture
def tower(tmp_path: Path) -> ItemTower:
    write_tower(tmp_path / "item_tower.onnx", TinyTower())
    return tower_at(tmp_path / "item_tower.onnx")


@needs_tokenizers()
def test_vocabularies_and_the_tokenizer_travel(
    tower: ItemTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tokenizer(tmp_path)
    inputs = TowerInputs("item", FEATURES, {"item.tag": ("a", "b"), "items": ("x", "y", "z")}, tmp_path)
    sent = portable(dataclasses.replace(tower, inputs=inputs))
    assert set(sent.files) == {"item_tower.onnx", "tokenizer.json"}
    values = {"text": ["read a csv file", "naïve"], "tag": ["b", "unknown"], "id": ["z", "x"]}
    arrived = []
    monkeypatch.setattr(
        "twinspire.export.encoding.ray_cluster.encode_window", lambda *given: arrived.append(given[1])
    )
    encode_on_node(sent, values, 0, "items")
    found, expected = arrived[0].to_arrays(values), inputs.to_arrays(values)
    assert set(found) == set(FEATURES)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_node_has_the_vectors_of_any_number_of_threads_and_keeps_no_files(
    tower: ItemTower, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    values = {"text": documents(WINDOW)}
    found = encode_on_node(portable(tower), values, 0, "items")
    assert not list((tmp_path / "node").iterdir())
    for threads in (0, 1):
        encode = onnx_encoder(tower.file, threads)
        expected = encode_window(encode, tower.inputs, values, 0, "items", lambda _: None)
        assert not isinstance(found, tuple), found
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_bad_value_and_another_version_are_told(tower: ItemTower) -> None:
    sent = portable(tower)
    expected = ("item.text", "row 6 of items: expected a string, got NoneType")
    assert encode_on_node(sent, {"text": [None]}, 5, "items") == expected
    other = dataclasses.replace(sent, key="another", versions={"onnxruntime": "0.1"})
    with pytest.raises(Unavailable, match=r"it has onnxruntime \d.*, and the process that sends has 0\.1"):
        encode_on_node(other, {"text": ["a"]}, 0, "items")
