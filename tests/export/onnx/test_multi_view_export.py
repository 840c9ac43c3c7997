"""The item towers of several views as one ONNX file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.onnx import parity
from export.onnx.export import export_tower, frozen
from export.onnx.runtimes import onnx_encoder, torch_encoder
from export.quantization import round_tables
from export.quantization.tables import with_stored_tables
from protos.features import NumberFeature, TextFeature
from tests.train.models.architectures.test_multi_view import CONFIG, FULL_SCHEMA, VIEWS, built

INPUTS = FULL_SCHEMA.side("item")
TEXTS = ["read a file", "", "a game of chess", "搜索 引擎", "x" * 90, "the the the"]


def columns(views: list[Any]) -> dict[str, list[Any]]:
    """Each text in each of some views."""
    count = len(TEXTS) * len(views)
    return {
        "section": [view for view in views for _ in TEXTS],
        "text": TEXTS * len(views),
        "id": (["a", "b", "never", None] * count)[:count],
        "tags": ([["big"], [], ["old", "big"], None, ["never"]] * count)[:count],
        "size": ([1.0, None, -3.0] * count)[:count],
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file; its example has no view, which must not matter."""
    two = {name: values[:2] for name, values in columns(["net"]).items()} | {"section": [None, None]}
    written = tmp_path_factory.mktemp("multi-view") / "tower.onnx"
    export_tower(frozen(built(FULL_SCHEMA)[1]), INPUTS.features, INPUTS.to_arrays(two), written)
    return written


def test_torch_and_onnx_runtime_agree_in_any_batch_and_in_unknown_views(path: Path) -> None:
    torch_side = torch_encoder(frozen(built(FULL_SCHEMA)[1]))
    values = columns(VIEWS)
    report = parity.check("item", INPUTS, onnx_encoder(path), torch_side, values, 1e-5)
    assert report["records"] == 3 * (len(TEXTS) * len(VIEWS) + len(parity.HOSTILE_TEXTS))


def test_a_vector_depends_on_its_view_and_not_on_its_batch(path: Path) -> None:
    encode, values = onnx_encoder(path), columns(VIEWS)
    together = encode(INPUTS.to_arrays(values))
    for n in range(len(together)):
        alone = encode(INPUTS.to_arrays({name: [each[n]] for name, each in values.items()}))[0]
        np.testing.assert_allclose(together[n], alone, atol=1e-6)
    one = columns([VIEWS[0]])
    by_view = np.stack([encode(INPUTS.to_arrays({**one, "section": [view] * len(TEXTS)})) for view in VIEWS])
    for n in range(len(TEXTS)):
        assert len(np.unique(by_view[:, n].round(5), axis=0)) == 1 + CONFIG.max_views
    np.testing.assert_array_equal(by_view[3], by_view[4])  # a view without a tower, and an unknown one
    np.testing.assert_array_equal(by_view[4], by_view[5])  # and none


def test_layers_of_all_views_are_one_product(path: Path) -> None:
    """Not one for each view."""
    products = [node for node in onnx.load(path).graph.node if node.op_type in ("Gemm", "MatMul")]
    others = sum(isinstance(spec, TextFeature | NumberFeature) for spec in FULL_SCHEMA.item.values())
    assert len(products) == len(CONFIG.hidden) + others


def test_the_tables_of_all_views_can_be_stored_in_int8(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale of a row goes into its weight; the row of padding in each view's table keeps the weight 0."""
    monkeypatch.setattr("export.quantization.tables.MIN_BYTES", 1)
    tower, arrays = frozen(built(FULL_SCHEMA)[1]), INPUTS.to_arrays(columns(VIEWS))
    stored = with_stored_tables(onnx.load(path), "int8")
    onnx.save_model(stored, tmp_path / "int8.onnx")
    found = onnx_encoder(tmp_path / "int8.onnx")(arrays)
    rounded, plain = (torch_encoder(round_tables(tower, each))(arrays) for each in ("int8_tables", "fp32"))
    np.testing.assert_allclose(found, rounded, atol=1e-5)
    assert np.abs(found - plain).max() > 2e-5
    (weights,) = (numpy_helper.to_array(each) for each in stored.graph.initializer if ".of." in each.name)
    np.testing.assert_array_equal(np.flatnonzero(weights == 0), CONFIG.buckets * np.arange(4))
