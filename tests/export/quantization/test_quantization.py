"""Variants in lower precision: which parts are rounded, and agreement with torch with the same tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from tests.helpers import watched
from tests.helpers.exported import Exported, exported, move_weights
from tests.helpers.stdlib import Sections, started
from twinspire.export.onnx import parity
from twinspire.export.onnx.export import export_tower, frozen
from twinspire.export.onnx.runtimes import onnx_encoder, torch_encoder
from twinspire.export.quantization.tables import (
    MIN_BYTES,
    make_variants,
    round_tables,
    rounded_table,
    tables_of,
    with_stored_tables,
)
from twinspire.protos.bundle import TableVariant
from twinspire.protos.features import SIDES, Side, TextFeature, TowerInputs
from twinspire.train.models.towers import Tower

pytestmark = pytest.mark.exhaustive

WIDE = {"dimension": 160, "layers": 1, "item_hidden": 32}  # an id table of 78 KiB
HISTORIES: Mapping[str, Sections] = {
    "attention": {**watched.ATTENTION, "tower": {**watched.ATTENTION["tower"], **WIDE}},
}
TEXTS = ("features", "dssm")  # kinds whose queries are texts
TABLES: tuple[TableVariant, ...] = ("fp16_tables", "int8_tables")


@dataclass(frozen=True)
class Made:
    """A tower and its variants; `tables` are those of its graph."""

    kind: str
    side: Side
    inputs: TowerInputs
    tower: Tower
    values: dict[str, list[Any]]
    variants: dict[TableVariant, Path]
    tables: tuple[str, ...]

    def parity(self, variant: TableVariant, tower: Tower) -> float:
        """By how much torch and ONNX Runtime differ, on real and on hostile records."""
        onnx_side, torch_side = onnx_encoder(self.path(variant)), torch_encoder(tower)
        found = parity.check(self.side, self.inputs, onnx_side, torch_side, self.values, np.inf)
        return float(found["max_abs_diff"])

    def path(self, variant: TableVariant) -> Path:
        return self.variants[variant]


@pytest.fixture(scope="module", params=[*TEXTS, *HISTORIES])
def both(
    request: pytest.FixtureRequest, stdlib: Path, films: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[Side, Made]:
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    if kind in TEXTS:
        found = exported(kind, stdlib, tmp_path_factory)
    else:
        model, data, _ = started(watched.write_toml(films, folder / "a.toml", sections=HISTORIES[kind]))
        move_weights(model.towers)
        towers = {side: frozen(tower) for side, tower in zip(SIDES, model.towers, strict=True)}
        found = Exported(model, data, towers, folder)
        for side in SIDES:
            inputs, example = model.schema.side(side), data.sample(side, "test", 2, seed=1)
            export_tower(towers[side], inputs.features, inputs.to_arrays(example), found.path(side))
    return {side: _made(kind, side, found, folder) for side in SIDES}


def _made(kind: str, side: Side, of: Exported, folder: Path) -> Made:
    inputs, data = of.model.schema.side(side), of.data
    values = data.sample(side, "test", 8, seed=1)
    tables = tables_of(onnx.load(of.path(side)))
    return Made(kind, side, inputs, of.towers[side], values, make_variants(of.path(side), folder), tables)


@pytest.fixture(params=["query", "item"])
def made(request: pytest.FixtureRequest, both: dict[Side, Made]) -> Made:
    found: Made = both[request.param]
    return found


def constants(path: Path) -> dict[str, Any]:
    return {each.name: each for each in onnx.load(path).graph.initializer}


def test_torch_with_the_same_tables_agrees(made: Made) -> None:
    if not made.tables:
        assert [*made.variants] == ["fp32"]
        assert made.kind == "attention" or made.side == "query"
        return
    assert made.parity("int8_tables", round_tables(made.tower, "int8_tables")) <= 1e-5
    arrays = made.inputs.to_arrays(made.values)
    halved = torch_encoder(round_tables(made.tower, "fp16_tables"))(arrays)
    assert parity.difference(onnx_encoder(made.path("fp16_tables"))(arrays), halved) <= 1e-5
    before = torch_encoder(made.tower)(arrays)
    assert np.abs(onnx_encoder(made.path("int8_tables"))(arrays) - before).max() > 2e-5  # another model
    np.testing.assert_array_equal(torch_encoder(round_tables(made.tower, "fp32"))(arrays), before)


def test_the_right_tables_are_rounded_and_shrink(made: Made) -> None:
    plain = constants(made.path("fp32"))
    expected = {
        name
        for name, each in plain.items()
        if name.endswith(("table", "embedding.weight")) and 4 * np.prod(each.dims) >= MIN_BYTES
    }
    assert set(made.tables) == expected
    if not expected:
        return
    saved = sum(4 * int(np.prod(plain[name].dims)) for name in expected)
    sizes = {name: path.stat().st_size for name, path in made.variants.items()}
    stored_as: tuple[tuple[TableVariant, float, int], ...]
    stored_as = (("fp16_tables", 0.5, TensorProto.FLOAT16), ("int8_tables", 0.27, TensorProto.INT8))
    for variant, share, kind in stored_as:
        assert sizes[variant] < sizes["fp32"] - (1 - share) * saved + 8192
        stored = constants(made.path(variant))
        assert {name for name, each in stored.items() if each.data_type == kind} == expected
        for name in expected:
            table, before = (numpy_helper.to_array(each[name]) for each in (stored, plain))
            np.testing.assert_array_equal((table == 0).all(axis=1), (before == 0).all(axis=1))


def test_hashes_and_other_sources_of_indices_stay_exact(made: Made) -> None:
    texts = [name for name, spec in made.inputs.features.items() if isinstance(spec, TextFeature)]
    if not texts:
        return
    values = {name: (each * 3)[: len(parity.HOSTILE_TEXTS)] for name, each in made.values.items()}
    arrays = made.inputs.to_arrays({**values, **{name: list(parity.HOSTILE_TEXTS) for name in texts}})
    rows = {}
    for variant, path in made.variants.items():
        model = onnx.load(path)
        hashed = next(node.output[0] for node in model.graph.node if node.op_type == "Mod")
        del model.graph.value_info[:]
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(hashed, TensorProto.INT32, ("a", "b", "c"))
        )
        session = onnxruntime.InferenceSession(model.SerializeToString())
        rows[variant] = session.run([hashed], arrays)[0]
    for variant, found in rows.items():
        np.testing.assert_array_equal(found, rows["fp32"], err_msg=variant)
    assert len(np.unique(rows["fp32"])) > 50


def test_a_table_with_other_readers_is_not_changed() -> None:
    table = np.random.default_rng(0).normal(size=(1024, 32)).astype(np.float32)
    helper = onnx.helper

    def graph(*more: onnx.NodeProto, table: Any = table) -> onnx.ModelProto:
        nodes = [helper.make_node("Gather", ["table", "rows"], ["found"]), *more]
        nodes[0].name = "look-up"
        outputs = [helper.make_tensor_value_info("found", TensorProto.FLOAT, ("a", "b"))]
        outputs += [
            helper.make_tensor_value_info(each.output[0], TensorProto.FLOAT, ("c", "d")) for each in more
        ]
        rows = helper.make_tensor_value_info("rows", TensorProto.INT64, ["batch"])
        inner = helper.make_graph(nodes, "one", [rows], outputs, [numpy_helper.from_array(table, "table")])
        return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    assert tables_of(graph()) == ("table",)
    assert tables_of(graph(helper.make_node("MatMul", ["table", "table"], ["product"]))) == ()
    assert tables_of(graph(table=table[:500])) == ()
    assert tables_of(graph(table=np.ones((9000, 3), np.float32))) == ()
    before = graph()
    stored = with_stored_tables(before, "int8")
    assert before == graph()
    session = onnxruntime.InferenceSession(stored.SerializeToString())
    rows = np.array([0, 7, 1023])
    # Equal bits on any processor: each value is one product of a whole number and a scale, rounded once.
    np.testing.assert_array_equal(session.run(None, {"rows": rows})[0], rounded_table(table, "int8")[rows])
