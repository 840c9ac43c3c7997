"""Towers of several views: each is the network of DSSM, and an item reads that of its view alone."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from protos.errors import DataError
from protos.features import CategoryFeature, FeatureSpec, IdFeature, NumberFeature, Schema, TextFeature
from train.config.towers import MultiViewTower
from train.models.architectures.dssm import DssmArchitecture
from train.models.architectures.multi_view import ViewTexts, ViewTower
from train.models.initialization import fit_number_encoders
from train.models.row_gradients import mark
from train.models.tower_factory import InitializationData, architecture_of, build_towers, shared_item_table
from train.models.towers import Tower

CONFIG = MultiViewTower("multi_view", "section", 6, buckets=128, hidden=(10, 8), max_views=3, characters=())
TEXT = TextFeature("text", "text", max_length=60)
SECTION = CategoryFeature("category", "section")
TEXTS: dict[str, FeatureSpec] = {"section": SECTION, "text": TEXT}
FULL: dict[str, FeatureSpec] = {
    **TEXTS,
    "id": IdFeature("id"),
    "tags": CategoryFeature("category", "tags", multi=True),
    "size": NumberFeature("number", "size"),
}
SECTIONS = ("net", "games", "libs", "doc")  # the most frequent first: the last has no tower of its own
VOCABULARIES = {"item.section": SECTIONS, "items": ("a", "b"), "item.tags": ("big", "old")}
SCHEMA = Schema({"text": TEXT}, TEXTS, VOCABULARIES)
FULL_SCHEMA = Schema({"text": TEXT}, FULL, VOCABULARIES)
VIEWS = ["net", "games", "libs", "doc", "never seen", None]
TOWER = [1, 2, 3, 0, 0, 0]  # of each


def built(schema: Schema = SCHEMA, config: MultiViewTower = CONFIG) -> tuple[Tower, ViewTower]:
    """Towers in evaluation mode, with random numbers where they start with zeros."""
    torch.manual_seed(0)
    query, item = build_towers(config, schema)
    assert isinstance(item, ViewTower)
    for tower in (query, item):
        for parameter in tower.parameters():
            if parameter.numel() and parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.5)
        tower.eval()
    return query, item


def inputs(schema: Schema = SCHEMA, **values: list[Any]) -> Mapping[str, Tensor]:
    """One item for each of `VIEWS`, alike but for what is given."""
    usual = {"text": "read a file", "id": "a", "tags": ["big"], "size": 3.0}
    columns: dict[str, list[Any]] = {name: [each] * len(VIEWS) for name, each in usual.items()}
    arrays = schema.side("item").to_arrays({**columns, "section": VIEWS, **values})
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def rows_of(parameter: Tensor, tower: int, count: int = 4) -> Tensor:
    """The part of a parameter that belongs to one of the towers."""
    return parameter.chunk(count)[tower]


def own_parameters(item: ViewTower) -> dict[str, torch.nn.Parameter]:
    return {name: each for name, each in item.named_parameters() if not name.startswith("encoders.id.")}


@torch.no_grad()
@pytest.mark.parametrize("tower", range(4))
def test_an_item_depends_on_the_tower_of_its_view_alone(tower: int) -> None:
    _, item = built()
    before = item(inputs())
    for parameter in own_parameters(item).values():
        rows_of(parameter, tower).normal_()
    changed = (item(inputs()) != before).any(dim=1)
    assert changed.tolist() == [each == tower for each in TOWER]


@torch.no_grad()
@pytest.mark.parametrize("tower", range(4))
def test_other_features_are_read_by_the_view_too(tower: int) -> None:
    """Their encoders hold the weights of a tower in columns."""
    _, item = built(FULL_SCHEMA)
    before = item(inputs(FULL_SCHEMA))
    for weights in (item.encoders["tags"].embedding.weight, item.encoders["size"].map.weight.T):  # type: ignore[union-attr]
        assert isinstance(weights, Tensor)
        weights.chunk(4, dim=1)[tower].normal_()
    changed = (item(inputs(FULL_SCHEMA)) != before).any(dim=1)
    assert changed.tolist() == [each == tower for each in TOWER]


@torch.no_grad()
@pytest.mark.parametrize("tower", range(4))
def test_the_tower_of_a_view_is_the_network_of_dssm(tower: int) -> None:
    _, item = built()
    texts = Schema({"text": TEXT}, {"text": TEXT})
    alone = DssmArchitecture(CONFIG.query_section()).tower(texts, "item", shared_item_table(texts, 10, 0.01))
    names = {
        "encoders.text.table": "encoders.text.table",
        "deep.0.bias": "bias",
        "deep.2.weight": "layers.0.weight",
        "deep.2.bias": "layers.0.bias",
        "deep.4.weight": "layers.1.weight",
        "deep.4.bias": "layers.1.bias",
    }
    parameters = dict(item.named_parameters())
    assert {*names.values()} == {*parameters}
    copied = {name: rows_of(parameters[other], tower) for name, other in names.items()}
    assert not alone.load_state_dict(copied, strict=False).unexpected_keys
    assert {name for name, _ in alone.named_parameters()} == {*copied}
    given = inputs(text=["read a file", "", "a game of chess", "搜索", "x" * 70, "a manual"])
    found = item(given)
    mine = np.flatnonzero(np.array(TOWER) == tower)
    torch.testing.assert_close(found[mine], alone({"text": given["text"]})[mine], rtol=0, atol=1e-6)


def test_views_have_parameters_of_their_own_and_there_is_one_query_tower() -> None:
    query, item = built()
    vectors = item(inputs())
    assert len(vectors[:4].unique(dim=0)) == 4  # of one text
    for name, parameter in own_parameters(item).items():
        parts = [rows_of(parameter, tower) for tower in range(4)]
        assert len(parameter) % 4 == 0
        assert not any(torch.equal(parts[0], each) for each in parts[1:]), name
    assert type(query) is Tower
    assert not {*query.parameters()} & {*item.parameters()}
    assert [tuple(each.shape) for each in query.parameters()] == [
        (128, 10), (10,), (8, 10), (8,), (6, 8), (6,)
    ]  # fmt: skip
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(VIEWS)))


def test_each_view_starts_as_a_network_of_its_size() -> None:
    """The bound of Xavier's initialization is that of one tower, not of all together."""
    torch.manual_seed(0)
    _, item = build_towers(CONFIG, SCHEMA)
    for name, (inner, outer) in {"layers.0.weight": (10, 8), "encoders.text.table": (10, 128)}.items():
        largest = item.get_parameter(name).abs().max().item()
        assert largest == pytest.approx((6 / (inner + outer)) ** 0.5, rel=0.1)
    assert item.get_parameter("bias").count_nonzero() == 0


def test_unknown_views_have_one_tower() -> None:
    vectors = built()[1](inputs())
    torch.testing.assert_close(vectors[3], vectors[4])
    torch.testing.assert_close(vectors[4], vectors[5])
    _, item = built(config=dataclasses.replace(CONFIG, max_views=8))
    assert item.count == 1 + len(SECTIONS)
    assert not torch.allclose(item(inputs())[3], item(inputs())[4], atol=0.01)  # "doc" has one now


def test_a_step_trains_the_towers_of_the_views_in_it() -> None:
    _, item = built()
    item(inputs())[[0, 2]].sum().backward()  # "net" and "libs"
    for parameter in own_parameters(item).values():
        assert parameter.grad is not None
        assert [bool(rows_of(parameter.grad, tower).any()) for tower in range(4)] == [
            False, True, False, True
        ]  # fmt: skip


def test_some_items_train_the_tower_of_unknown_views() -> None:
    _, item = built(config=dataclasses.replace(CONFIG, view_dropout=0.3))
    rows = torch.full((2000, 1), 2)  # "net"
    dropout = item.prepare["section"]
    assert torch.equal(dropout(rows), rows)
    item.train()
    towers = item.view_of(dropout(rows))
    assert {*towers.tolist()} == {0, 1}
    assert (towers == 0).float().mean().item() == pytest.approx(0.3, abs=0.05)


@torch.no_grad()
def test_bags_and_code_points_give_the_same_vectors() -> None:
    _, item = built(FULL_SCHEMA)
    values: dict[str, list[Any]] = {
        "section": [*VIEWS, *VIEWS],
        "text": ["a", "read a file", "", "the file " * 5, "搜索 引擎", "x" * 90] * 2,
        "id": ["a", "b", "never"] * 4,
        "tags": [["big"], [], ["old", "big"], None] * 3,
        "size": [1.0, None, 1e9] * 4,
    }
    arrays = FULL_SCHEMA.side("item").to_arrays(values)
    expected = item({name: torch.from_numpy(array) for name, array in arrays.items()})
    corpus = architecture_of(CONFIG).prepare(FULL_SCHEMA, "item", values)
    torch.testing.assert_close(item(corpus.batch(np.arange(12))), expected, rtol=0, atol=1e-6)
    turned = np.arange(12)[::-1].copy()
    torch.testing.assert_close(item(corpus.batch(turned)), expected[turned], rtol=0, atol=1e-6)
    for n in range(12):
        alone = item(corpus.batch(np.array([n])))
        torch.testing.assert_close(alone[0], expected[n], rtol=0, atol=1e-6)


def test_gradients_of_a_marked_table_are_the_same() -> None:
    _, item = built()
    texts = item.encoders["text"]
    assert isinstance(texts, ViewTexts)
    values: dict[str, list[Any]] = {"section": VIEWS, "text": ["read a file", "", "x", "a file", "b", "c d"]}
    batch = architecture_of(CONFIG).prepare(SCHEMA, "item", values).batch(np.arange(6))
    item(batch)[:, ::2].sum().backward()
    expected, texts.table.grad = texts.table.grad, None
    mark(texts.table)
    item(batch)[:, ::2].sum().backward()
    assert texts.table.grad is not None and expected is not None
    assert texts.table.grad.is_sparse
    torch.testing.assert_close(texts.table.grad.to_dense(), expected)


def test_numbers_are_standardised() -> None:
    _, item = built(FULL_SCHEMA)
    fit_number_encoders(item, "item", {"query": {}, "item": {"size": [1.0, None, 5.0]}})
    assert float(item.encoders["size"].mean) == 3.0  # type: ignore[arg-type]


def started(schema: Schema, sections: list[Any]) -> list[str]:
    """What is said about the start, with items of these sections."""
    architecture, said = architecture_of(CONFIG), list[str]()
    values = {"section": sections, "text": ["a file"] * len(sections)}
    prepared: Any = (None, architecture.prepare(schema, "item", values))
    nothing: Any = None
    start = InitializationData(schema, nothing, prepared, 0, said.append)
    architecture.initialize(architecture.build(schema), start)
    return said


def test_the_views_with_a_tower_are_said() -> None:
    assert started(SCHEMA, ["net", "doc", "games", None]) == [
        "item.section: 3 of 4 views have a tower of their own, with 50.0% of the items; the others take that "
        "of unknown views"
    ]


@pytest.mark.parametrize(("views", "said"), [((), "got none"), (("net",), "got 'net'")])
def test_fewer_than_two_views_are_refused(views: tuple[str, ...], said: str) -> None:
    schema = Schema({"text": TEXT}, TEXTS, {"item.section": views})
    with pytest.raises(DataError, match=rf"item\.section: expected at least two views .*{said}"):
        started(schema, ["net", "net"])
