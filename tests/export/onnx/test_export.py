"""A tower as one ONNX file gives the vectors of torch, for all records and batches."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.onnx import parity
from export.onnx.export import export_tower, frozen
from export.onnx.optimize import optimize
from export.onnx.runtimes import onnx_encoder, torch_encoder
from protos.errors import GateRefused
from protos.features import Side
from tests.helpers.stdlib import CDSSM, DSSM, FEATURES, LSTM, PLAIN, Sections, started, write_toml
from train.paths import ROOT

TEXTS = ("sort a list in place", "日本語 テキスト", "", "the the the the", "x" * 24)


CHARACTERS: Sections = {**PLAIN, "tower": {**PLAIN["tower"], "characters": [1, 2]}}


@pytest.fixture(params=["plain", "characters", "dssm", "cdssm", "lstm", "features"])
def sections(request: pytest.FixtureRequest) -> Sections:
    kinds: dict[str, Sections] = {
        "plain": PLAIN,
        "characters": CHARACTERS,
        "dssm": DSSM,
        "cdssm": {**CDSSM, "tower": {**CDSSM["tower"], "characters": [1, 2]}},
        "lstm": {**LSTM, "tower": {**LSTM["tower"], "characters": [1, 2]}},
        "features": FEATURES,
    }
    return kinds[request.param]


@pytest.mark.exhaustive
@pytest.mark.parametrize("side", ["query", "item"])
def test_torch_and_onnx_runtime_agree_on_real_and_hostile_records(
    stdlib: Path, tmp_path: Path, sections: Sections, side: Side
) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml", sections=sections))
    tower, inputs = frozen(model.towers[side == "item"]), model.schema.side(side)
    values = data.sample(side, "test", 40, seed=1)
    two = {name: column[:2] for name, column in values.items()}
    path = tmp_path / "tower.onnx"
    export_tower(tower, inputs.features, inputs.to_arrays(two), path)
    report = parity.check(side, inputs, onnx_encoder(path), torch_encoder(tower), values, 1e-5)
    assert report["records"] == 3 * (40 + len(parity.HOSTILE_TEXTS))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.toml", "tower.onnx"]
    assert str(ROOT).encode() not in path.read_bytes()


def test_towers_that_differ_are_refused(stdlib: Path, tmp_path: Path) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    inputs = model.schema.side("query")
    values = data.sample("query", "test", 8, seed=1)
    tower = frozen(model.towers[0])
    export_tower(tower, inputs.features, inputs.to_arrays(values), tmp_path / "tower.onnx")
    onnx_side = onnx_encoder(tmp_path / "tower.onnx")
    tower.encoders["text"].table.mul_(1.3).add_(0.01)  # type: ignore[operator]
    with pytest.raises(GateRefused, match=r"query tower: torch and ONNX Runtime differ by"):
        parity.check("query", inputs, onnx_side, torch_encoder(tower), values, 1e-5)


@pytest.mark.exhaustive
def test_a_vector_does_not_depend_on_its_batch(stdlib: Path, tmp_path: Path) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    for side, tower in zip(("query", "item"), model.towers, strict=True):
        inputs = model.schema.side(side)  # type: ignore[arg-type]
        example = inputs.to_arrays(data.sample(side, "test", 2, seed=1))  # type: ignore[arg-type]
        export_tower(frozen(tower), inputs.features, example, tmp_path / "tower.onnx")
        encode = onnx_encoder(tmp_path / "tower.onnx")
        together = encode(inputs.to_arrays({"text": TEXTS}))
        for n, text in enumerate(TEXTS):
            alone = encode(inputs.to_arrays({"text": [text]}))[0]
            np.testing.assert_allclose(together[n], alone, atol=1e-6)
        lengths = np.linalg.norm(together, axis=1)
        np.testing.assert_allclose(np.delete(lengths, 2), 1, atol=1e-5)


def test_rewrites_keep_vectors_and_remove_nodes(
    stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    inputs = model.schema.side("item")
    values = data.sample("item", "test", 30, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("export.onnx.export.optimize", lambda model: model)
        arguments = frozen(model.towers[1]), inputs.features, inputs.to_arrays(values)
        before = export_tower(*arguments, tmp_path / "fat.onnx")
    slim = optimize(onnx.load(tmp_path / "fat.onnx"))
    onnx.save_model(slim, tmp_path / "lean.onnx")
    assert len(slim.graph.node) < 0.9 * before
    with monkeypatch.context() as patch:
        patch.setattr("export.onnx.optimize._normalise", lambda graph: None)  # which alone rounds otherwise
        onnx.save_model(optimize(onnx.load(tmp_path / "fat.onnx")), tmp_path / "exact.onnx")
    hostile = {"text": [*values["text"], *parity.HOSTILE_TEXTS]}
    fat, exact, thin = (onnx_encoder(tmp_path / f"{name}.onnx") for name in ("fat", "exact", "lean"))
    arrays = inputs.to_arrays(hostile)
    np.testing.assert_array_equal(
        fat(arrays), exact(arrays)
    )  # equal bits: the same sums, in the same process
    np.testing.assert_allclose(fat(arrays), thin(arrays), atol=2e-6)
    assert (thin(arrays)[-len(parity.HOSTILE_TEXTS)] == 0).all()  # an empty text stays the zero vector


@pytest.mark.exhaustive
def test_the_example_does_not_influence_the_graph(stdlib: Path, tmp_path: Path) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml", sections=FEATURES))
    tower, inputs = frozen(model.towers[0]), model.schema.side("query")
    shortest: dict[str, list[Any]] = {
        "text": ["a", ""],
        "level": [None, None],
        "terms": [[], []],
        "words": [None, None],
    }
    export_tower(tower, inputs.features, inputs.to_arrays(shortest), tmp_path / "tower.onnx")
    graph = onnx.load(tmp_path / "tower.onnx").graph
    sizes = {each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim]
             for each in graph.input}  # fmt: skip
    assert {*inputs.features} == {*sizes}
    assert {dimensions[0] for dimensions in sizes.values()} == {"batch"}
    assert sizes["text"][1] == "text_length"
    assert sizes["words"][1] == 1
    values = data.sample("query", "test", 33, seed=1)
    arrays = inputs.to_arrays(values)
    assert arrays["terms"].shape[1] > 1
    onnx_side, torch_side = onnx_encoder(tmp_path / "tower.onnx"), torch_encoder(tower)
    np.testing.assert_allclose(onnx_side(arrays), torch_side(arrays), atol=1e-5)


def test_a_graph_holds_no_paths_of_the_machine(stdlib: Path, tmp_path: Path) -> None:
    model, data, _ = started(write_toml(stdlib, tmp_path / "a.toml"))
    inputs = model.schema.side("query")
    example = inputs.to_arrays(data.sample("query", "test", 2, seed=1))
    export_tower(frozen(model.towers[0]), inputs.features, example, tmp_path / "tower.onnx")
    content = (tmp_path / "tower.onnx").read_bytes()
    for trace in (str(ROOT), "site-packages", ".py", str(Path.home())):
        assert trace.encode() not in content
    graph = onnx.load(tmp_path / "tower.onnx").graph
    assert not any(node.doc_string or len(node.metadata_props) for node in graph.node)
    assert not any(each.external_data for each in graph.initializer)
