"""Towers: the paper's forward pass against a reference, unit vectors, and shared parameters."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from twinspire.protos.features import CategoryFeature, FeatureSpec, NumberFeature, Schema, Side, TextFeature
from twinspire.train.config.towers import BagTower, DssmTower
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.models.towers import Tower

DSSM = DssmTower("dssm", dimension=6, buckets=512, hidden=(10, 8))
BAG = BagTower("bag", dimension=16, latent=0, buckets=512, query_hidden=0, item_hidden=8)
TEXT: dict[str, FeatureSpec] = {"text": TextFeature("text", "text", max_length=2000)}
FULL: dict[str, FeatureSpec] = {
    **TEXT,
    "tags": CategoryFeature("category", "tags", multi=True),
    "price": NumberFeature("number", "price"),
}
SCHEMA = Schema(TEXT, TEXT)
FULL_SCHEMA = Schema(FULL, FULL, {"query.tags": ("new", "old"), "item.tags": ("big",)})
Config = DssmTower | BagTower
CONFIGS = pytest.mark.parametrize("config", [DSSM, BAG, replace(BAG, query_hidden=8)], ids=str)
TEXTS = ["a", "read a file", "the file " * 40, "搜索 引擎", "listen", "x" * 500, "silent? no!"]


def built(config: Config, schema: Schema = SCHEMA) -> tuple[Tower, Tower]:
    """Towers with random numbers where they start with zeros."""
    torch.manual_seed(0)
    towers = architecture_of(config).build(schema)
    for tower in towers:
        for parameter in tower.parameters():
            if parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.5)
    return towers


plain = functools.cache(built)  # for tests that do not change the towers


@torch.no_grad()
def encoded(tower: Tower, texts: Sequence[str], schema: Schema = SCHEMA, side: Side = "item") -> Tensor:
    arrays = schema.side(side).to_arrays({"text": texts})
    vectors: Tensor = tower({name: torch.from_numpy(array) for name, array in arrays.items()})
    return vectors


@CONFIGS
def test_vectors_are_of_unit_length(config: Config) -> None:
    for tower in plain(config):
        vectors = encoded(tower, TEXTS)
        assert vectors.shape == (len(TEXTS), config.dimension)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))


@CONFIGS
@given(texts=st.lists(st.text(max_size=50), min_size=1, max_size=4))
def test_a_record_does_not_depend_on_other_records(config: Config, texts: list[str]) -> None:
    for tower in plain(config):
        together = encoded(tower, [*texts, "a much longer text " * 20])[:-1]
        alone = torch.cat([encoded(tower, [text]) for text in texts])
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)


def test_dssm_is_the_papers_network() -> None:
    tower = plain(DSSM)[1]
    hashing = architecture_of(DSSM).hashing()
    corpus = PreparedInputs(SCHEMA, "item", {"text": TEXTS}, hashing).texts["text"]
    counts = np.zeros((len(TEXTS), DSSM.buckets))  # the bag of letter trigrams, equation 3
    for n in range(len(TEXTS)):
        run = slice(corpus.starts[n], corpus.starts[n + 1])
        counts[n, corpus.rows[run]] = corpus.counts[run]
    assert counts.max() > 1
    state = {name: value.double().numpy() for name, value in tower.state_dict().items()}
    layer = np.tanh(counts @ state["encoders.text.table"] + state["deep.0.bias"])
    layer = np.tanh(layer @ state["deep.2.weight"].T + state["deep.2.bias"])  # equation 4
    output = np.tanh(layer @ state["deep.4.weight"].T + state["deep.4.bias"])  # equation 5
    expected = output / np.linalg.norm(output, axis=1, keepdims=True)
    np.testing.assert_allclose(encoded(tower, TEXTS), expected, atol=1e-5)


def test_the_residual_layer_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    query, item = architecture_of(BAG).build(SCHEMA)
    torch.manual_seed(0)
    _, bare = architecture_of(replace(BAG, item_hidden=0)).build(SCHEMA)
    torch.testing.assert_close(encoded(item, TEXTS), encoded(bare, TEXTS), rtol=0, atol=1e-6)
    assert sum(p.numel() for p in item.parameters()) > sum(p.numel() for p in query.parameters())


@CONFIGS
def test_every_feature_counts_and_may_be_absent(config: Config) -> None:
    tower = built(config, FULL_SCHEMA)[0]
    base: dict[str, Any] = {"text": "read a file", "tags": ["new"], "price": 3.0}
    others: list[dict[str, Any]] = [
        {"text": "write a file"},
        {"tags": ["old"]},
        {"tags": ["new", "old"]},
        {"tags": None},
        {"tags": ["never seen"]},
        {"price": 4.0},
        {"price": None},
        {"text": ""},
    ]
    records = [base, *(base | other for other in others)]
    columns = {name: [record[name] for record in records] for name in base}
    arrays = FULL_SCHEMA.side("query").to_arrays(columns)
    with torch.no_grad():
        vectors = tower({name: torch.from_numpy(array) for name, array in arrays.items()})
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(records)))
    assert len(vectors.unique(dim=0)) == len(records)


@CONFIGS
def test_a_text_without_letters_gives_no_tremendous_gradient(config: Config) -> None:
    torch.manual_seed(0)
    tower = architecture_of(config).build(SCHEMA)[1]
    arrays = SCHEMA.side("item").to_arrays({"text": ["-", "read a file"]})
    vectors = tower({name: torch.from_numpy(array) for name, array in arrays.items()})
    (vectors @ torch.ones(config.dimension)).sum().backward()
    assert vectors[0].abs().max() == 0
    assert all(p.grad.abs().max() < 100 for p in tower.parameters() if p.grad is not None)


def test_words_alone_are_a_tower_too() -> None:
    tower = built(replace(BAG, orders=()))[1]
    assert isinstance(tower.encoders["text"], HashedTextEncoder)
    same = encoded(tower, ["read a file", "file a READ", "reads files"])
    torch.testing.assert_close(same[0], same[1])
    assert not torch.allclose(same[0], same[2])
