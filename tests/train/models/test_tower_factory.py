"""Every architecture takes every kind of feature, and shares the parameters that it should share."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    NumberFeature,
    Schema,
    Side,
    TextFeature,
)
from twinspire.train.config.history_towers import ComirecTower, SequenceTower
from twinspire.train.config.towers import BagTower, DssmTower, TowerConfig
from twinspire.train.models.sequence_encoders import PoolingEncoder
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.models.towers import ItemDotHead, QueryDotHead, Tower, largest_products

TEXT = TextFeature("text", "t", max_length=40)
HISTORY = HistoryFeature("history", max_length=5)
ID = IdFeature("id")
MORE: dict[str, FeatureSpec] = {
    "tags": CategoryFeature("category", "tags", multi=True),
    "price": NumberFeature("number", "price"),
}
VOCABULARIES = {"items": ("a", "b", "c"), "query.tags": ("new", "old"), "item.tags": ("big",)}
SCHEMAS = {
    "texts": Schema({"text": TEXT}, {"text": TEXT}),
    "ids": Schema({"history": HISTORY}, {"id": ID}, VOCABULARIES),
    "history and text": Schema({"history": HISTORY}, {"text": TEXT}, VOCABULARIES),
    "text and id": Schema({"text": TEXT}, {"id": ID}, VOCABULARIES),
    "everything": Schema(
        {"history": HISTORY, "text": TEXT, **MORE}, {"id": ID, "text": TEXT, **MORE}, VOCABULARIES
    ),
}
SMALL: dict[str, Any] = {"dimension": 8, "buckets": 64}
KINDS: dict[str, TowerConfig] = {
    "bag": BagTower("bag", latent=0, item_hidden=4, **SMALL),
    "bag by characters": BagTower("bag", latent=0, item_hidden=4, characters=(1, 2), **SMALL),
    "dssm": DssmTower("dssm", hidden=(6,), **SMALL),
    "attention": SequenceTower("sequence", **SMALL),
    "attention and latent": SequenceTower("sequence", latent=3, item_hidden=4, **SMALL),
    "attention and linear": SequenceTower("sequence", linear=3, **SMALL),
    "sum": SequenceTower("sequence", history="sum", **SMALL),
    "sum and latent": SequenceTower("sequence", history="sum", latent=3, **SMALL),
    "comirec": ComirecTower("comirec", interests=3, hidden=6, item_hidden=4, **SMALL),
}
RECORDS: dict[Side, dict[str, list[Any]]] = {
    "query": {
        "history": [["a"], [], ["c", "never", "a"], ["b"] * 9],
        "text": ["read a file", "", "搜索", "write"],
        "tags": [["new"], None, ["old", "new"], []],
        "price": [1.0, None, 3.0, 1e9],
    },
    "item": {
        "id": ["a", "b", "c", "never"],
        "text": ["a file", "", "引擎", "files"],
        "tags": [["big"], None, ["never"], []],
        "price": [1.0, None, 3.0, -5.0],
    },
}


def built(kind: str, schema: str) -> tuple[Tower, Tower]:
    """Towers in evaluation mode, with random numbers where they start with zeros."""
    torch.manual_seed(0)
    towers = architecture_of(KINDS[kind]).build(SCHEMAS[schema])
    for tower in towers:
        for parameter in tower.parameters():
            if parameter.numel() and parameter.abs().max() == 0:
                nn.init.normal_(parameter, std=0.5)
        tower.eval()
    return towers


def inputs(schema: str, side: Side) -> Mapping[str, Tensor]:
    arrays = SCHEMAS[schema].side(side).to_arrays(RECORDS[side])
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def takes(kind: str, schema: str) -> bool:
    """Whether the configuration allows it: see test_config."""
    if "comirec" in kind:
        return schema == "ids"
    return schema in ("ids", "everything") or not any(each in kind for each in ("latent", "linear"))


TAKEN = [(kind, schema) for kind in KINDS for schema in SCHEMAS if takes(kind, schema)]


@pytest.mark.parametrize(("kind", "schema"), TAKEN)
def test_every_kind_takes_every_feature(kind: str, schema: str) -> None:
    query, item = built(kind, schema)
    vectors, items = query(inputs(schema, "query")), item(inputs(schema, "item"))
    if isinstance(item.head, ItemDotHead):
        items = item.head.fit_to_catalogue(items)
        vectors = query(inputs(schema, "query"))  # whose length follows the items'
    interests = query.head.interests
    assert interests == (3 if "comirec" in kind else 1)
    assert vectors.shape == (4, interests * items.shape[1])
    assert len(items) == 4
    assert vectors.isfinite().all()
    assert len(vectors.detach().unique(dim=0)) > 1
    torch.testing.assert_close(items.norm(dim=1), torch.ones(4))
    cosine = kind in ("bag", "bag by characters", "dssm")
    assert query.head.score().kind == ("cosine" if cosine else "inner_product")
    total: Any = largest_products(vectors, items).sum()
    total.backward()
    for tower in (query, item):
        assert all(p.grad is None or p.grad.isfinite().all() for p in tower.parameters())


@pytest.mark.parametrize(
    "kind",
    ["bag", "dssm", "attention", "attention and latent"],
)
def test_histories_and_ids_share_the_item_embeddings(kind: str) -> None:
    query, item = built(kind, "everything")
    assert query.encoders["history"].table is item.encoders["id"].table
    table: Any = query.encoders["history"].table
    assert len(table) == 5


def test_a_sum_has_its_own_embeddings_that_start_at_zero() -> None:
    query, item = architecture_of(KINDS["sum"]).build(SCHEMAS["ids"])
    table: Any = query.encoders["history"].table
    assert table is not item.encoders["id"].table
    assert table.abs().max() == 0
    assert table.requires_grad


@pytest.mark.parametrize("kind", ["sum and latent", "attention and latent"])
def test_factors_are_two_tables_that_are_not_trained(kind: str) -> None:
    query, item = architecture_of(KINDS[kind]).build(SCHEMAS["everything"])
    left, right = query.factors["history"], item.factors["id"]
    assert isinstance(left, PoolingEncoder)
    tables: list[Any] = [left.table, right.table]
    assert tables[0] is not tables[1]
    assert [each.shape for each in tables] == [(5, 3), (5, 3)]
    assert not any(each.requires_grad for each in tables)
    assert left.age.requires_grad
    plain, _ = architecture_of(KINDS["attention"]).build(SCHEMAS["everything"])
    assert not plain.factors


def test_a_step_of_training_leaves_the_linear_coordinates_out() -> None:
    query, item = built("attention and linear", "everything")
    assert query.mixture is not None and item.mixture is not None
    given, offered = inputs("everything", "query"), inputs("everything", "item")
    own = (query(given) @ item(offered).T).detach()
    for tower in (query, item):
        tower.mixture.set_weights(2.0, 3.0)  # type: ignore[union-attr]
    left, right = query.mixture.encoder(given["history"]), item.mixture.encoder(offered["id"])
    assert right.abs().min() > 0
    mixed = query(given) @ item(offered).T
    torch.testing.assert_close(mixed, 4 * left @ right.T + 9 * own)
    assert query(given).shape == (4, 3 + 8 + 1)
    for tower in (query, item):
        tower.train()
    assert query(given).shape == item(offered).shape == (4, 8 + 1)
    trained = {n for tower in (query, item) for n, p in tower.named_parameters() if p.requires_grad}
    assert not any("mixture" in name for name in trained)


def test_both_heads_have_one_radius() -> None:
    query, item = built("attention", "ids")
    assert isinstance(query.head, QueryDotHead)
    assert isinstance(item.head, ItemDotHead)
    item.head.radius.fill_(3.5)
    assert float(query.head.radius) == 3.5
    copy = architecture_of(KINDS["attention"]).build(SCHEMAS["ids"])
    for tower, source in zip(copy, (query, item), strict=True):
        tower.load_state_dict(source.state_dict())
    assert copy[0].head.radius is copy[1].head.radius  # also after weights came back


def test_unknown_items_differ_by_their_content() -> None:
    _, item = built("attention", "everything")
    values: dict[str, list[Any]] = {
        "id": ["x", "y"],
        "text": ["a file", "a mill"],
        "tags": [[], []],
        "price": [1.0, 1.0],
    }
    arrays = SCHEMAS["everything"].side("item").to_arrays(values)
    one, two = item({name: torch.from_numpy(array) for name, array in arrays.items()})
    assert not torch.allclose(one, two)
