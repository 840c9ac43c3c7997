"""Variants in lower precision agree with torch, and the smallest one within the bound is chosen."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from tests.helpers.watched import ATTENTION
from tests.helpers.watched import write_toml as write_films
from twinspire.export.encoding.encoding import encode_all
from twinspire.export.onnx import parity
from twinspire.export.onnx.export import export_tower, frozen
from twinspire.export.onnx.runtimes import onnx_encoder, torch_encoder
from twinspire.export.quantization import ExportedTower, choose_precision
from twinspire.export.quantization.choose import (
    BothVectors,
    ChosenPrecision,
    QualitySample,
    draw_sample,
    first_within,
)
from twinspire.export.quantization.tables import (
    MIN_BYTES,
    make_variants,
    round_tables,
    rounded_table,
    tables_of,
    with_stored_tables,
)
from twinspire.protos.bundle import TableVariant
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import SIDES, Side, TextFeature, TowerInputs
from twinspire.train.config.bundle import PrecisionConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.encoders import HashedTextEncoder
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


METRICS = ("recall_at_10", "ndcg_at_10")


@dataclass(frozen=True)
class World:
    """Two towers in float32, and the data that their variants are judged on."""

    data: TrainingData
    towers: Mapping[Side, ExportedTower]

    def choose(self, folder: Path, **changed: Any) -> ChosenPrecision:
        config, encoded = PrecisionConfig(**changed), self.all_items
        return choose_precision(self.towers, self.data, config, folder, encoded)

    def all_items(self, path: Path) -> Any:
        """Vectors of all items by the item tower in a file, on one thread."""
        inputs = self.towers["item"].inputs
        return encode_all(onnx_encoder(path), inputs, self.data.items, "items")

    def vectors(self, sample: QualitySample, towers: Mapping[Side, ExportedTower]) -> dict[Side, Any]:
        """Of the sample, by towers on one thread."""
        return {
            side: sample.encode(side, "", each.inputs, onnx_encoder(each.path))
            for side, each in towers.items()
        }


def world(data: TrainingData, model: Any, towers: Mapping[Side, Tower], paths: Mapping[Side, Path]) -> World:
    return World(
        data,
        {side: ExportedTower(side, model.schema.side(side), towers[side], paths[side]) for side in SIDES},
    )


@pytest.fixture(scope="module")
def plain(stdlib: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("plain", stdlib, tmp_path_factory)


@pytest.fixture(scope="module")
def texts(plain: Exported) -> World:
    return world(plain.data, plain.model, plain.towers, {side: plain.path(side) for side in SIDES})


@pytest.fixture(scope="module")
def chosen(texts: World, tmp_path_factory: pytest.TempPathFactory) -> ChosenPrecision:
    return texts.choose(tmp_path_factory.mktemp("chosen"))


@pytest.mark.parametrize("side", SIDES)
def test_the_chosen_variant_is_within_the_bound_and_agrees_with_torch(
    texts: World, chosen: ChosenPrecision, side: Side
) -> None:
    found = chosen.towers[side]
    figures = chosen.report[side]["variants"][found.variant]
    assert all(figures[f"{metric}_delta"] >= -0.005 for metric in METRICS)
    assert found.path.stat().st_size == figures["size_bytes"]
    values = texts.data.sample(side, "test", 8, seed=3)
    parity.check(side, found.inputs, onnx_encoder(found.path), torch_encoder(found.tower), values, 1e-5)


def test_a_variant_with_a_loss_is_not_chosen(plain: Exported, tmp_path: Path) -> None:
    """One large coordinate, which no item has, takes all the room of a row of int8 and none of float16."""
    towers, paths = {side: frozen(plain.towers[side]) for side in SIDES}, {}
    for side, value in zip(SIDES, (200, 0), strict=True):
        text = towers[side].encoders["text"]
        assert isinstance(text, HashedTextEncoder)
        text.table[:, 0] = value
        model, table = onnx.load(plain.path(side)), text.table.numpy()
        (constant,) = (each for each in model.graph.initializer if tuple(each.dims) == table.shape)
        constant.CopyFrom(numpy_helper.from_array(table, constant.name))
        paths[side] = tmp_path / f"{side}_tower.onnx"
        onnx.save_model(model, paths[side])
    lossy = world(plain.data, plain.model, towers, paths)
    for bound in (0.005, 0.0):
        found = lossy.choose(tmp_path, max_loss=bound)
        report = found.report["query"]
        assert report["variants"]["int8_tables"]["recall_at_10_delta_high"] < -0.1
        assert f"more than {bound:g}" in report["refused"]["int8_tables"]
        kept = report["variants"][found.towers["query"].variant]
        assert min(kept[f"{metric}_delta"] for metric in METRICS) >= -bound
    forced = lossy.choose(tmp_path, query="int8_tables")
    assert forced.towers["query"].variant == "int8_tables"
    report = forced.report["query"]
    assert report["variants"]["int8_tables"]["recall_at_10_delta"] < -0.1
    assert set(report["variants"]) == {"fp32", "int8_tables"}
    assert "set by precision.query, although" in report["why"]


def test_a_configured_variant_is_made_or_refused(
    texts: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = texts.data.sample("item", "test", 8, seed=3)
    inputs, plain = texts.towers["item"].inputs, onnx_encoder(texts.towers["item"].path)
    for name in ("fp32", "fp16_tables"):  # alone, the second would not be tried
        found = texts.choose(tmp_path, item=name)
        assert (found.towers["item"].variant, found.report["item"]["chosen"]) == (name, name)
        assert set(found.report["item"]["variants"]) == {"fp32", name}
        pair = onnx_encoder(found.towers["item"].path), plain
        difference = parity.difference(*(encode(inputs.to_arrays(values)) for encode in pair))
        assert (difference > 0) == (name != "fp32")
    monkeypatch.setattr("twinspire.export.quantization.tables.MIN_BYTES", 2**40)
    assert texts.choose(tmp_path).report["query"]["why"].startswith("fp32: no table of")
    with pytest.raises(ConfigError, match=r"precision\.query: int8_tables cannot be made .* no table of"):
        texts.choose(tmp_path, query="int8_tables")


@pytest.mark.parametrize(
    ("bound", "chosen", "measured"),
    [(0.5, "tiny", ["tiny"]), (0.05, "small", ["tiny", "small"]), (0.0, "large", ["tiny", "small"])],
)
def test_variants_are_tried_from_the_smallest_until_one_is_within_the_bound(
    texts: World, bound: float, chosen: str, measured: list[str]
) -> None:
    sample = draw_sample(texts.data, PrecisionConfig())
    plain, asked = texts.vectors(sample, texts.towers), list[str]()
    answered = np.argsort(-sample.metrics(plain)["ndcg_at_10"])  # queries, the best answered first

    def vectors_of(name: str) -> BothVectors:
        asked.append(name)
        queries, count = plain["query"].copy(), len(answered) // {"tiny": 4, "small": 40}[name]
        queries[answered[:count]] *= -1  # these find the worst items
        return {**plain, "query": queries}

    sizes = {"large": 8, "small": 4, "tiny": 2}
    config = PrecisionConfig(max_loss=bound)
    name, vectors, report = first_within("query", config, sizes, plain, vectors_of, sample)
    assert (name, asked, [*report["variants"]]) == (chosen, measured, ["large", *measured])
    assert (vectors is plain) == (chosen == "large")
    assert [*report["refused"]] == [each for each in measured if each != chosen]
    assert all(f"more than {bound:g}" in why for why in report["refused"].values())


def test_a_sample_of_a_large_catalogue_has_all_relevant_items(texts: World) -> None:
    sampled = PrecisionConfig(items=150, queries=40)
    sample = draw_sample(texts.data, sampled)
    assert (len(sample.queries), len(sample.items)) == (40, 150)
    rows, relevant = texts.data.parts["validation"].by_query()
    answers = dict(zip(rows.tolist(), relevant, strict=True))
    for query, places in zip(sample.queries.tolist(), sample.relevant, strict=True):
        np.testing.assert_array_equal(sample.items[places], answers[query])
    again = draw_sample(texts.data, sampled)
    np.testing.assert_array_equal(again.items, sample.items)
    other = draw_sample(texts.data, replace(sampled, seed=1))
    assert not np.array_equal(other.items, sample.items)
    whole = texts.vectors(draw_sample(texts.data, PrecisionConfig()), texts.towers)["item"][sample.items]
    np.testing.assert_allclose(texts.vectors(sample, texts.towers)["item"], whole, atol=1e-6)


def test_all_items_are_encoded_by_the_variant_that_is_tried_first(texts: World, tmp_path: Path) -> None:
    """The other variants encode the sample alone, of the items of which the caller has all."""
    paths: list[Path] = []

    def all_items(path: Path) -> Any:
        paths.append(path)
        return texts.all_items(path)

    config = PrecisionConfig(items=150, max_loss=0.5)
    found = choose_precision(texts.towers, texts.data, config, tmp_path, all_items)
    assert {path.stem.partition("-")[2] for path in paths} == {"int8_tables"}
    assert found.towers["item"].path in paths


def test_seen_items_are_not_returned(films: Path, tmp_path: Path) -> None:
    model, data, _ = started(write_films(films, tmp_path / "a.toml", sections=ATTENTION))
    sample = draw_sample(data, PrecisionConfig(items=110, queries=100))
    assert len(sample.items) < data.item_count
    for query, seen in zip(sample.queries, sample.seen, strict=True):
        own = data.seen(np.array([query]))[0]
        np.testing.assert_array_equal(sample.items[seen], own[np.isin(own, sample.items)])
    encode = torch_encoder(frozen(model.towers[1]))
    items = sample.encode("item", "", model.schema.side("item"), encode)
    best: BothVectors = {"query": items[[each[0] for each in sample.relevant]], "item": items}
    assert sample.metrics(best)["recall_at_10"].mean() > 0.9
    hidden = replace(sample, seen=sample.relevant)
    assert hidden.metrics(best)["recall_at_10"].max() == 0


def test_a_bound_on_the_loss_goes_with_a_choice() -> None:
    with pytest.raises(ValueError, match=r"max_loss: goes with .auto"):
        PrecisionConfig(query="fp32", item="fp32", max_loss=0.1)
    with pytest.raises(ValueError, match="max_loss: expected 0 to below 1"):
        PrecisionConfig(max_loss=1.0)
