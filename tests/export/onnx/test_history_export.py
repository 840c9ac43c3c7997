"""Towers of histories as ONNX files give the vectors of torch, for all records and batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from tests.helpers.exported import export_both, unoptimised_path
from tests.helpers.stdlib import Sections, started
from tests.helpers.watched import AGES, ASKED, ATTENTION, LATENT, SUM, write_toml
from twinspire.export.onnx import parity
from twinspire.export.onnx.export import frozen
from twinspire.export.onnx.optimize import optimize
from twinspire.export.onnx.runtimes import Encode, onnx_encoder, torch_encoder
from twinspire.protos.features import FeatureSpec, TowerInputs
from twinspire.train.evaluation import exact_search
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.recent_popularity import PeriodEncoder
from twinspire.train.models.towers import Tower

pytestmark = pytest.mark.exhaustive

TWO: Mapping[str, Any] = {"layers": 2}
KINDS: Mapping[str, Sections] = {
    "attention": {**ATTENTION, "tower": {**ATTENTION["tower"], **TWO}},
    "ages": {**AGES, "tower": {**AGES["tower"], **TWO}},
    "sum": SUM,
    "latent and linear": {**LATENT, "tower": {**LATENT["tower"], "linear": 12}},
    "recent popularity": {
        **ATTENTION,
        "query.time": {"kind": "time"},
        "tower": {**ATTENTION["tower"], **TWO, "linear": 12, "recent_popularity": 8},
    },
    "bag": ASKED,
}
LENGTHS = (0, 1, 2, 19, 20, 21, 60)  # around max_length, and far beyond it


@dataclass(frozen=True)
class Side:
    """One tower in both forms."""

    side: Literal["query", "item"]
    inputs: TowerInputs
    tower: Tower
    onnx: Encode
    unoptimised: Path  # the file before `optimize`


@dataclass(frozen=True)
class Both:
    """Two towers moved away from their start, where much is zero, and the items they are of."""

    query: Side
    item: Side
    items: Mapping[str, Sequence[Any]]
    known: Sequence[str]

    def side(self, side: str) -> Side:
        return self.query if side == "query" else self.item


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("kind")
    path = write_toml(films, folder / "a.toml", sections=KINDS[request.param])
    model, data, (_, items) = started(path)
    with torch.no_grad():
        for weights in {each for tower in model.towers for each in tower.parameters()}:
            weights.add_(0.1 * torch.randn_like(weights))
        for tower in model.towers:
            for part in (tower.mixture, tower.recent):
                if part is not None:
                    part.set_weights(1.5, 0.5)
        for layer in model.towers[0].modules():
            if isinstance(layer, PeriodEncoder):
                layer.begins.copy_(1_000_000 + 10 * torch.arange(len(layer.begins)))
        for text in (
            part for tower in model.towers for part in tower.modules() if isinstance(part, HashedTextEncoder)
        ):
            text.weights[0] = 0  # as learning leaves it: nothing here
    model.towers[1].head.fit_to_catalogue(exact_search.encode(model.towers[1], items))
    known = model.schema.vocabularies["items"]

    def exported(side: Literal["query", "item"], trained: Tower) -> Side:
        tower, inputs, path = frozen(trained), model.schema.side(side), folder / f"{side}.onnx"
        two = {name: values[:2] for name, values in records(inputs.features, known).items()}
        export_both(tower, inputs.features, inputs.to_arrays(two), path)
        return Side(side, inputs, tower, onnx_encoder(path), unoptimised_path(path))

    query_tower, item_tower = model.towers
    return Both(exported("query", query_tower), exported("item", item_tower), data.items, known)


def records(features: Mapping[str, FeatureSpec], known: Sequence[str]) -> dict[str, list[Any]]:
    """Records of histories of many lengths, some with unknown items, some empty or absent."""
    random = np.random.default_rng(0)
    histories = [random.choice(known, length).tolist() for length in LENGTHS * 6]
    for n, history in enumerate(histories):
        if n % 5 == 1:
            history[::2] = ["unknown-1", "unknown-2"] * (len(history[::2]) // 2) + ["these"] * (
                len(history[::2]) % 2
            )
    histories[4], histories[11] = ["unknown"] * 30, None
    count = len(histories)
    pools: dict[str, Sequence[Any]] = {
        "country": ("de", "fr", None, "nowhere"),
        "time": (None, 1_000_019.9, 1_000_020, 0.0, -1e12, 1e12),
        "text": ("", "western river", "日本語", "anything"),
        "id": [*known[:7], "new", None],
        "title": ("river of the garden", "", "x" * 40),
        "genre": ("Drama", None, "Musical"),
    }
    drawn = {name: [pool[n % len(pool)] for n in range(count)] for name, pool in pools.items()}
    if getattr(features.get("history"), "times", False):
        # Every third history has no times, and every fifth query, of each of seven `LENGTHS`, is asked now.
        asked = random.integers(1_500_000_000, 1_600_000_000, count).astype(float).tolist()
        drawn["time"] = [None if n % 5 == 3 else asked[n] for n in range(count)]
        for n in (n for n in range(count) if n % 3 != 2):
            items = histories[n] or ()
            ages = np.sort(60.0 * 2 ** random.integers(0, 22, len(items)))  # on the borders between buckets
            pairs = zip(items, (asked[n] - ages[::-1]).tolist(), strict=True)
            histories[n] = [[item, time] for item, time in pairs]
    return {name: ({"history": histories} | drawn)[name] for name in features}


@pytest.mark.parametrize("side", ["query", "item"])
def test_torch_and_onnx_runtime_agree(both: Both, side: str) -> None:
    of = both.side(side)
    values = records(of.inputs.features, both.known)
    report = parity.check(of.side, of.inputs, of.onnx, torch_encoder(of.tower), values, 1e-5)
    assert report["records"] == len(parity.BATCHES) * (len(LENGTHS) * 6 + len(parity.HOSTILE_TEXTS))
    vectors = of.onnx(of.inputs.to_arrays(values))
    assert len(np.unique(vectors.round(4), axis=0)) > 5  # of which it is no feat to be equal


@pytest.mark.parametrize("side", ["query", "item"])
def test_a_vector_does_not_depend_on_its_batch(both: Both, side: str) -> None:
    of = both.side(side)
    values = records(of.inputs.features, both.known)
    for encode in (of.onnx, torch_encoder(of.tower)):
        together = encode(of.inputs.to_arrays(values))
        size = max(1.0, float(np.linalg.norm(together, axis=1).max()))
        for n in range(0, len(together), 3):
            alone = encode(of.inputs.to_arrays({name: [each[n]] for name, each in values.items()}))[0]
            np.testing.assert_allclose(together[n], alone, atol=2e-6 * size)


def test_order_matters_and_old_or_unknown_items_do_not(both: Both) -> None:
    inputs, known = both.query.inputs, list(both.known)

    def encoded(*histories: Any) -> npt.NDArray[np.float32]:
        rest = {name: "" if name == "text" else None for name in inputs.features}
        values = {name: [value] * len(histories) for name, value in rest.items()}
        return np.asarray(both.query.onnx(inputs.to_arrays({**values, "history": list(histories)})))

    empty, absent, unknown = encoded([], None, ["unknown-1", "unknown-2"])
    size = max(1.0, float(np.linalg.norm(empty)))
    np.testing.assert_allclose(empty, absent, atol=2e-6 * size)
    np.testing.assert_allclose(empty, unknown, atol=2e-6 * size)
    newest = known[3:23]  # max_length of them
    short, long, mixed = encoded(newest, known[40:90] + newest, ["x", *newest[:7], "y", *newest[7:]])
    size = max(1.0, float(np.linalg.norm(short)))
    np.testing.assert_allclose(short, long, atol=1e-5 * size)
    np.testing.assert_allclose(short, mixed, atol=1e-5 * size)
    one, other = encoded(newest, newest[::-1])
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - empty).max() > 1e-2


def test_item_vectors_have_unit_length_for_every_score(both: Both) -> None:
    vectors = both.item.onnx(both.item.inputs.to_arrays(both.items))
    assert len(vectors) == 120
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors[:, 0])) > 100


def test_rewrites_keep_vectors_and_remove_nodes(both: Both, tmp_path: Path) -> None:
    of = both.query
    values = of.inputs.to_arrays(records(of.inputs.features, both.known))
    unoptimised = onnx.load(of.unoptimised)
    before = len(unoptimised.graph.node)
    slim = optimize(unoptimised)
    onnx.checker.check_model(slim, full_check=True)
    assert len(slim.graph.node) <= before
    if "Softmax" in (node.op_type for node in slim.graph.node):  # attention, where there is most to save
        assert len(slim.graph.node) < 0.96 * before
        parts = sum(part is not None for part in (of.tower.mixture, of.tower.recent))
        # One joins the times of the events and that of the query.
        dated = int("history__times" in [each.name for each in slim.graph.input])
        assert sum(node.op_type == "Concat" for node in slim.graph.node) <= parts + dated
    onnx.save_model(slim, tmp_path / "slim.onnx")
    found = onnx_encoder(tmp_path / "slim.onnx")(values)
    size = max(1.0, float(np.abs(found).max()))
    np.testing.assert_allclose(found, onnx_encoder(of.unoptimised)(values), atol=1e-6 * size)
