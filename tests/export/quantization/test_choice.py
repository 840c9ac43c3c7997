"""The fastest variant within the bound is chosen, and the report has a reason for every other."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from export import quantization
from export.onnx import parity
from export.onnx.export import frozen
from export.onnx.runtimes import onnx_encoder, torch_encoder
from export.quantization import ChosenVariant, ExportedTower, QualitySample
from export.quantization.selection import Candidate, select
from protos import toml_config
from protos.errors import ConfigError
from protos.features import SIDES, Side
from protos.vectors import rounded_vectors
from tests.helpers.exported import Exported, exported
from tests.helpers.stdlib import started
from tests.helpers.watched import ATTENTION
from tests.helpers.watched import write_toml as write_films
from train.config import ExportConfig
from train.config.precision import PrecisionConfig
from train.data.training_data import TrainingData
from train.evaluation.plots import save
from train.models.encoders import HashedTextEncoder
from train.models.towers import Tower

pytestmark = pytest.mark.exhaustive

EXPORT = ExportConfig(iterations=10)
METRICS = ("recall_at_10", "ndcg_at_10")


@dataclass(frozen=True)
class World:
    """Two towers, and what their variants are judged on."""

    data: TrainingData
    towers: Mapping[Side, ExportedTower]
    sample: QualitySample

    def choose(self, side: Side, folder: Path, **changed: Any) -> ChosenVariant:
        console = Console(file=io.StringIO())
        asked = PrecisionConfig(**changed)
        return quantization.choose_tower(self.towers[side], self.sample, asked, EXPORT, folder, console)


def world(data: TrainingData, model: Any, towers: Mapping[Side, Tower], paths: Mapping[Side, Path]) -> World:
    pair = {side: ExportedTower(side, model.schema.side(side), towers[side], paths[side]) for side in SIDES}
    encoders = {side: (each.inputs, onnx_encoder(each.path)) for side, each in pair.items()}
    console = Console(file=io.StringIO())
    sample = quantization.draw_sample(data, encoders, PrecisionConfig(), console)
    return World(data, pair, sample)


@pytest.fixture(scope="module")
def plain(stdlib: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("plain", stdlib, tmp_path_factory)


@pytest.fixture(scope="module")
def texts(plain: Exported) -> World:
    return world(plain.data, plain.model, plain.towers, {side: plain.path(side) for side in SIDES})


@pytest.fixture(scope="module")
def chosen(texts: World, tmp_path_factory: pytest.TempPathFactory) -> dict[Side, ChosenVariant]:
    folder = tmp_path_factory.mktemp("chosen")
    return {side: texts.choose(side, folder) for side in SIDES}


@pytest.mark.parametrize("side", SIDES)
def test_the_chosen_variant_is_within_the_bound_and_agrees_with_torch(
    texts: World, chosen: dict[Side, ChosenVariant], side: Side
) -> None:
    found = chosen[side]
    figures = found.report["variants"][found.variant]
    assert all(figures[f"{metric}_delta"] >= -0.005 for metric in METRICS)
    assert found.path.stat().st_size == figures["size_bytes"]
    values = texts.data.sample(side, "test", 8, seed=3)
    pair = onnx_encoder(found.path), torch_encoder(found.tower)
    parity.check(side, texts.towers[side].inputs, *pair, values, EXPORT.parity_tolerance)
    assert found.vectors.shape == texts.sample.vectors[side].shape


@pytest.mark.parametrize("side", SIDES)
def test_every_variant_is_measured_or_the_report_has_the_reason(
    chosen: dict[Side, ChosenVariant], side: Side
) -> None:
    report = chosen[side].report
    json.dumps(report, allow_nan=False)
    assert {*report["variants"]} == {*quantization.VARIANTS}
    assert not report["not_made"]
    assert {report["chosen"], *report["not_chosen"]} == {*report["variants"]}
    assert all(report["not_chosen"].values())
    plain = report["variants"]["fp32"]
    assert plain["size_share"] == 1
    assert plain["max_abs_diff"] == plain["recall_at_10_delta"] == 0
    assert plain["recall_at_10"] > 0.3
    for name, figures in report["variants"].items():
        for metric in METRICS:
            low, delta, high = (figures[f"{metric}_delta{end}"] for end in ("_low", "", "_high"))
            assert low <= delta <= high
            assert delta == pytest.approx(figures[metric] - plain[metric])
        assert figures["latency"]["p50_us"] > 0
        if name != "fp32":
            assert 0 < figures["max_abs_diff"] < 0.05
            assert 0.99 < figures["mean_cosine"] < 1.0001
            assert figures["size_share"] < 0.9
            assert figures["nodes"] > plain["nodes"]


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
        found = lossy.choose("query", tmp_path, max_loss=bound)
        figures = found.report["variants"]["int8_tables"]
        assert figures["recall_at_10_delta_high"] < -0.1
        assert f"more than {bound:g}" in found.report["not_chosen"]["int8_tables"]
        kept = found.report["variants"][found.variant]
        assert found.variant == "fp32" or min(kept[f"{metric}_delta"] for metric in METRICS) >= -bound
    forced = lossy.choose("query", tmp_path, query="int8_tables")
    assert forced.variant == "int8_tables"
    assert forced.report["variants"]["int8_tables"]["recall_at_10_delta"] < -0.1
    assert set(forced.report["variants"]) == {"fp32", "int8_tables"}
    assert "set by precision.query, although" in forced.report["why"]


def test_a_configured_variant_is_made_or_refused(
    texts: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = texts.data.sample("item", "test", 8, seed=3)
    inputs, plain = texts.towers["item"].inputs, onnx_encoder(texts.towers["item"].path)
    for name in ("fp32", "int8_tables"):
        found = texts.choose("item", tmp_path, item=name)
        assert (found.variant, found.report["chosen"]) == (name, name)
        assert set(found.report["variants"]) == {"fp32", name}
        difference = parity.difference(
            *(f(inputs.to_arrays(values)) for f in (onnx_encoder(found.path), plain))
        )
        assert (difference > 0) == (name != "fp32")
    monkeypatch.setattr("export.quantization.tables.MIN_BYTES", 2**40)
    with pytest.raises(ConfigError, match=r"precision\.query: int8_tables cannot be made .* no table of"):
        texts.choose("query", tmp_path, query="int8_tables")


def test_vectors_are_the_smallest_within_the_bound(texts: World, chosen: dict[Side, ChosenVariant]) -> None:
    queries, items = (chosen[side].vectors for side in SIDES)
    auto = PrecisionConfig(vectors="auto")
    found = quantization.choose_vectors(texts.sample, queries, items, False, auto)
    json.dumps(found.report, allow_nan=False)
    figures = found.report["variants"]
    assert [figures[name]["bytes_per_item"] for name in ("fp32", "fp16", "int8")] == [256, 128, 68]
    fit = [n for n in figures if min(figures[n][f"{metric}_delta"] for metric in METRICS) >= -0.005]
    assert found.precision == min(fit, key=lambda name: figures[name]["size_share"])
    together = texts.sample.metrics(queries, rounded_vectors(items, found.precision))["recall_at_10"].mean()
    assert found.report["together"]["recall_at_10"] == pytest.approx(together)
    kept = quantization.choose_vectors(texts.sample, queries, items, False, PrecisionConfig(vectors="fp32"))
    assert (kept.precision, set(kept.report["variants"])) == ("fp32", {"fp32", "fp16", "int8"})
    forced = quantization.choose_vectors(texts.sample, queries, items, False, PrecisionConfig(vectors="fp16"))
    assert (forced.precision, set(forced.report["not_chosen"])) == ("fp16", {"fp32", "int8"})
    few = items.copy()
    few[:, 0] = 200  # of another scale than the others: int8 has no room for them
    lossy = quantization.choose_vectors(texts.sample, queries, few, False, auto)
    assert lossy.precision != "int8"
    assert lossy.report["variants"]["int8"]["recall_at_10_delta"] < -0.1


def test_report_table_and_plot_show_every_variant(
    texts: World, chosen: dict[Side, ChosenVariant], tmp_path: Path
) -> None:
    queries, items = (chosen[side].vectors for side in SIDES)
    vectors = quantization.choose_vectors(texts.sample, queries, items, False, PrecisionConfig())
    report: dict[str, Any] = {str(side): chosen[side].report for side in SIDES}
    report["vectors"] = vectors.report
    console = Console(file=io.StringIO(), width=120)
    quantization.show_precision(json.loads(json.dumps(report)), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for side in SIDES:
        assert report[side]["why"] in text
        assert f"{chosen[side].variant}, chosen" in text
    figure = quantization.size_latency_and_quality(report)
    for side, row in zip(SIDES, (figure.axes[:3], figure.axes[3:]), strict=True):
        size, latency, recall = row
        variants = report[side]["variants"]
        names = [tick.get_text() for tick in size.get_yticklabels()]
        assert names == [f"{each}, chosen" if each == report[side]["chosen"] else each for each in variants]
        mib = [each["size_bytes"] / 2**20 for each in variants.values()]
        assert _widths(size) == pytest.approx(mib)
        assert _widths(latency) == pytest.approx([v["latency"]["p50_us"] for v in variants.values()])
        points = [line for line in recall.get_lines() if line.get_marker() == "o"]
        changes = [float(np.ravel(line.get_xdata())[0]) for line in points]
        assert changes == pytest.approx([100 * each["recall_at_10_delta"] for each in variants.values()])
        assert all(axes.get_xlabel() for axes in row)
    assert save(figure, tmp_path / "precision.png").stat().st_size > 10_000


def _widths(axes: Any) -> list[float]:
    """Of the bars of a plot."""
    return [float(bar.get_width()) for bar in axes.patches]


def test_a_sample_of_a_large_catalogue_has_all_relevant_items(texts: World) -> None:
    console = Console(file=io.StringIO())
    encoders = {side: (each.inputs, onnx_encoder(each.path)) for side, each in texts.towers.items()}
    sampled = PrecisionConfig(items=150, queries=40)
    sample = quantization.draw_sample(texts.data, encoders, sampled, console)
    assert (len(sample.queries), len(sample.items)) == (40, 150)
    rows, relevant = texts.data.parts["validation"].by_query()
    answers = dict(zip(rows.tolist(), relevant, strict=True))
    for query, places in zip(sample.queries.tolist(), sample.relevant, strict=True):
        np.testing.assert_array_equal(sample.items[places], answers[query])
    again = quantization.draw_sample(texts.data, encoders, sampled, console)
    np.testing.assert_array_equal(again.items, sample.items)
    other = quantization.draw_sample(texts.data, encoders, replace(sampled, seed=1), console)
    assert not np.array_equal(other.items, sample.items)
    whole = texts.sample.vectors["item"][sample.items]
    np.testing.assert_allclose(sample.vectors["item"], whole, atol=1e-6)


def test_seen_items_are_not_returned(films: Path, tmp_path: Path) -> None:
    model, data, _ = started(write_films(films, tmp_path / "a.toml", sections=ATTENTION))
    towers = dict(zip(SIDES, model.towers, strict=True))
    encoders = {
        side: (model.schema.side(side), torch_encoder(frozen(tower))) for side, tower in towers.items()
    }
    few = PrecisionConfig(items=110, queries=100)
    sample = quantization.draw_sample(data, encoders, few, Console(file=io.StringIO()))
    assert len(sample.items) < data.item_count
    for query, seen in zip(sample.queries, sample.seen, strict=True):
        own = data.seen(np.array([query]))[0]
        np.testing.assert_array_equal(sample.items[seen], own[np.isin(own, sample.items)])
    best = sample.vectors["item"][[each[0] for each in sample.relevant]]
    assert sample.metrics(best, sample.vectors["item"])["recall_at_10"].mean() > 0.9
    hidden = replace(sample, seen=sample.relevant)
    assert hidden.metrics(best, sample.vectors["item"])["recall_at_10"].max() == 0


LOSSLESS = {"recall_at_10": 0.0, "ndcg_at_10": 0.0}
FP32 = Candidate("fp32", 100, LOSSLESS, 20.0)


def test_the_fastest_within_the_bound_is_selected() -> None:
    lossy = {"recall_at_10": 0.01, "ndcg_at_10": -0.006}
    candidates = [FP32, Candidate("a", 50, LOSSLESS, 15.0), Candidate("b", 25, lossy, 10.0)]
    found = select(candidates, 0.005, "at batch 1")
    assert found.name == "a"
    assert found.rejections["b"] == "nDCG@10 falls by 0.0060, more than 0.005"
    assert found.rejections["fp32"] == "slower than a: 20.0 µs at batch 1 against 15.0"
    assert "the fastest within the bound: 15.0 µs at batch 1 against 20.0, 50.0% of fp32's size" in found.why
    assert select(candidates, 0.007, "at batch 1").name == "b"


def test_the_smallest_of_the_fastest_is_selected() -> None:
    near, far = Candidate("near", 30, LOSSLESS, 20.9), Candidate("far", 10, LOSSLESS, 21.1)
    found = select([FP32, near, far], 0.005, "at batch 1")
    assert found.name == "near"
    assert found.rejections["fp32"] == "as fast as near, but larger"
    assert found.rejections["far"].startswith("slower than near: 21.1")
    assert select([FP32, replace(near, size=100)], 0.005, "at batch 1").name == "fp32"  # no gain, no change


@pytest.mark.parametrize("metric", METRICS)
def test_a_bound_of_zero_falls_back_to_float32(metric: str) -> None:
    found = select([FP32, Candidate("a", 1, {**LOSSLESS, metric: -1e-9}, 1.0)], 0.0, "at batch 1")
    assert found.name == "fp32"
    assert "no other keeps" in found.why
    assert select([FP32], 0.0, "at batch 1").why == "fp32: no other can be made"


def read(tmp_path: Path, text: str) -> PrecisionConfig:
    path = tmp_path / "precision.toml"
    path.write_text(text)
    found: PrecisionConfig = toml_config.read(path, PrecisionConfig)
    return found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('query = "int4"', "query"),
        ('vectors = "int8_tables"', "vectors"),
        ("max_loss = -0.1", "max_loss: expected at least 0"),
        ("max_loss = 1.0", "max_loss: expected at least 0 and below 1"),
        ("items = 0", "items: expected at least 1"),
        ("bits = 8", "bits"),
        ('query = "fp32"\nitem = "fp32"\nvectors = "int8"\nmax_loss = 0.1', "max_loss: .* change nothing"),
    ],
)
def test_an_invalid_section_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, text)


def test_a_section_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, 'query = "int8_tables"\nitem = "fp32"\nvectors = "fp16"')
    assert (found.query, found.item, found.vectors) == ("int8_tables", "fp32", "fp16")
    assert read(tmp_path, "") == PrecisionConfig()
