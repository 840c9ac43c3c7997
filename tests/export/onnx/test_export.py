"""A tower as one ONNX file gives the vectors of torch, for all records and batches."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.helpers.exported import EXAMPLES, KINDS, SHORTEST, Exported, exported
from twinspire.export.onnx import parity
from twinspire.export.onnx.export import frozen
from twinspire.export.onnx.optimize import optimize
from twinspire.export.onnx.runtimes import onnx_encoder, torch_encoder
from twinspire.protos.errors import GateRefused
from twinspire.protos.features import SIDES
from twinspire.train.paths import ROOT

TEXTS = ("sort a list in place", "日本語 テキスト", "", "the the the the", "x" * 24)


@pytest.fixture(scope="module")
def plain(stdlib: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("plain", stdlib, tmp_path_factory)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_torch_and_onnx_runtime_agree_on_real_and_hostile_records(
    stdlib: Path, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    both = exported(kind, stdlib, tmp_path_factory)
    for side in SIDES:
        inputs, path = both.model.schema.side(side), both.path(side)
        values = both.data.sample(side, "test", 40, seed=1)
        pair = onnx_encoder(path), torch_encoder(both.towers[side])
        report = parity.check(side, inputs, *pair, values, 1e-5)
        assert report["records"] == 3 * (40 + len(parity.HOSTILE_TEXTS))
        assert str(ROOT).encode() not in path.read_bytes()
    # A graph holds its weights: there is no file of weights beside it.
    written = {f"{name}.onnx" for side in SIDES for name in (side, f"unoptimised-{side}")}
    assert {each.name for each in both.folder.iterdir()} == {"a.toml", "towers.pt", *written}


def test_towers_that_differ_are_refused(plain: Exported) -> None:
    inputs = plain.model.schema.side("query")
    values = plain.data.sample("query", "test", 8, seed=1)
    tower, onnx_side = frozen(plain.towers["query"]), onnx_encoder(plain.path("query"))
    tower.encoders["text"].table.mul_(1.3).add_(0.01)  # type: ignore[operator]
    with pytest.raises(GateRefused, match=r"query tower: torch and ONNX Runtime differ by"):
        parity.check("query", inputs, onnx_side, torch_encoder(tower), values, 1e-5)


@pytest.mark.exhaustive
def test_a_vector_does_not_depend_on_its_batch(plain: Exported) -> None:
    for side in SIDES:
        inputs, encode = plain.model.schema.side(side), onnx_encoder(plain.path(side))
        together = encode(inputs.to_arrays({"text": TEXTS}))
        for n, text in enumerate(TEXTS):
            alone = encode(inputs.to_arrays({"text": [text]}))[0]
            np.testing.assert_allclose(together[n], alone, atol=1e-6)
        lengths = np.linalg.norm(together, axis=1)
        np.testing.assert_allclose(np.delete(lengths, 2), 1, atol=1e-5)


def test_rewrites_keep_vectors_and_remove_nodes(
    plain: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, unchanged = plain.model.schema.side("item"), plain.unoptimised("item")
    values = plain.data.sample("item", "test", 30, seed=1)
    slim = optimize(onnx.load(unchanged))
    onnx.save_model(slim, tmp_path / "lean.onnx")
    assert len(slim.graph.node) < 0.9 * len(onnx.load(unchanged).graph.node)
    with monkeypatch.context() as patch:
        patch.setattr(
            "twinspire.export.onnx.optimize._normalise", lambda graph: None
        )  # which alone rounds otherwise
        onnx.save_model(optimize(onnx.load(unchanged)), tmp_path / "exact.onnx")
    hostile = {"text": [*values["text"], *parity.HOSTILE_TEXTS]}
    paths = unchanged, tmp_path / "exact.onnx", tmp_path / "lean.onnx"
    before, exact, after = (onnx_encoder(path) for path in paths)
    arrays = inputs.to_arrays(hostile)
    # Equal bits: the same sums, in the same process.
    np.testing.assert_array_equal(before(arrays), exact(arrays))
    np.testing.assert_allclose(before(arrays), after(arrays), atol=2e-6)
    assert (after(arrays)[-len(parity.HOSTILE_TEXTS)] == 0).all()  # an empty text stays the zero vector


@pytest.mark.exhaustive
def test_the_example_does_not_influence_the_graph(
    stdlib: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The query tower with features was exported with the example `SHORTEST`."""
    assert EXAMPLES["features", "query"] is SHORTEST
    both = exported("features", stdlib, tmp_path_factory)
    tower, inputs, path = both.towers["query"], both.model.schema.side("query"), both.path("query")
    graph = onnx.load(path).graph
    sizes = {each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim]
             for each in graph.input}  # fmt: skip
    assert {*inputs.features} == {*sizes} == {*SHORTEST}
    assert {dimensions[0] for dimensions in sizes.values()} == {"batch"}
    assert sizes["text"][1] == "text_length"
    assert sizes["words"][1] == 1
    values = both.data.sample("query", "test", 33, seed=1)
    arrays = inputs.to_arrays(values)
    assert arrays["terms"].shape[1] > 1
    np.testing.assert_allclose(onnx_encoder(path)(arrays), torch_encoder(tower)(arrays), atol=1e-5)


def test_a_graph_holds_no_paths_of_the_machine(plain: Exported) -> None:
    path = plain.path("query")
    content = path.read_bytes()
    for trace in (str(ROOT), "site-packages", ".py", str(Path.home())):
        assert trace.encode() not in content
    graph = onnx.load(path).graph
    assert not any(node.doc_string or len(node.metadata_props) for node in graph.node)
    assert not any(each.external_data for each in graph.initializer)
