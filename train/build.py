"""The kinds of towers, put together from encoders, a multilayer part and a head.

A kind is a way to start: what encodes a text, an id or a history, what the two sides share, and how the
two vectors are compared.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from protos.features import (
    FIRST_KNOWN,
    CategoryFeature,
    HistoryFeature,
    IdFeature,
    Schema,
    Side,
    TextFeature,
    vocabulary_of,
)
from train.config import BagTower, DssmTower, SequenceTower, SharedTower, TowerConfig
from train.encoders import Category, HashedText, Number
from train.hashing import WordHashing
from train.heads import Lift, Logistic, Open, Unit
from train.history import Attention, Forget, Ids, Nothing, Pooled, Thin, item_table
from train.towers import Bias, Newcomers, Residual, Tower

Towers = tuple[Tower, Tower]
Makers = Mapping[type, Callable[..., nn.Module]]


def build_towers(config: TowerConfig, schema: Schema) -> Towers:
    """Query tower and item tower before anything was learned or taken from data.

    Everything random is drawn from torch's global generator.
    """
    if isinstance(config, SequenceTower):
        return _sequence_towers(config, schema)
    if isinstance(config, SharedTower):
        return _shared_towers(config, schema)
    if isinstance(config, BagTower):
        return _bag_towers(config, schema)
    table = _item_table(schema, config.hidden[0], 0.01)
    return _dssm_tower(config, schema, "query", table), _dssm_tower(config, schema, "item", table)


def hashing_of(config: TowerConfig) -> WordHashing:
    """The word hashing in front of both towers."""
    words = not isinstance(config, DssmTower) and config.words
    return WordHashing(config.orders, words, config.buckets)


def reach_of(schema: Schema) -> int:
    """Places of the longest window: the longest history, and the start before it."""
    lengths = [spec.max_length for spec in schema.query.values() if isinstance(spec, HistoryFeature)]
    return max(lengths, default=0) + 1


def _sequence_towers(config: SequenceTower, schema: Schema) -> Towers:
    """The item table is shared; the query's bias lets items be popular, whatever the history."""
    width = config.dimension
    ids = _item_table(schema, width, 0.02)
    makers: Makers = {
        **_texts(config, width),
        IdFeature: partial(Ids, ids),
        HistoryFeature: partial(_history, config, schema, ids),
    }
    histories, named = _of_kind(schema.query, HistoryFeature), _of_kind(schema.item, IdFeature)
    query_factors: dict[str, nn.Module] = {}
    item_factors: dict[str, nn.Module] = {}
    if config.latent:
        left, right = (_item_table(schema, config.latent, 0.0) for _ in range(2))
        for table in (left, right):
            table.requires_grad_(False)  # learned beyond, by the coordinates beside it
        pooled = Pooled(left, reach_of(schema), False, config.latent_scale, config.decay)
        query_factors = dict.fromkeys(histories, pooled)
        item_factors = {name: Ids(right) for name in named}
    thin = {name: Thin(config.history_dropout) for name in histories}
    forget = {name: Forget(config.id_dropout, len(ids) - FIRST_KNOWN) for name in named}
    query_deep = nn.Sequential(nn.Dropout(config.query_dropout), Bias(width))
    item_deep = Residual(width, config.item_hidden) if config.item_hidden else nn.Identity()
    newcomers = (named[0], _newcomers(config, schema)) if named and config.newcomers == "fitted" else None
    query_head, item_head = _heads(config.similarity)
    query = _encoders(schema, "query", width, makers)
    item = _encoders(schema, "item", width, makers)
    return (
        Tower(query, query_deep, query_head, query_factors, thin),
        Tower(item, item_deep, item_head, item_factors, forget, newcomers),
    )


def _texts(config: SequenceTower, width: int) -> Makers:
    """Encoders of text with one table for all of them."""
    hashing = hashing_of(config)
    table = nn.Parameter(torch.randn(config.buckets, width) * 0.004)
    return {TextFeature: lambda: HashedText(hashing, table, torch.ones(config.buckets))}


def _history(config: SequenceTower, schema: Schema, ids: nn.Parameter) -> nn.Module:
    width, reach = config.dimension, reach_of(schema)
    if config.history == "attention":
        return Attention(ids, config.layers, config.heads, config.dropout, config.input_dropout, reach)
    if config.history == "mean":
        return Pooled(ids, reach, True, decay=config.decay)
    if config.history == "sum":
        return Pooled(_item_table(schema, width, 0.0), reach, False, decay=config.decay)
    return Nothing(width)


def _newcomers(config: SequenceTower, schema: Schema) -> Newcomers:
    """Encoders of an item's content beside those that are learned."""
    encoders = {
        name: _encoder(schema, "item", name, config.dimension, _texts(config, config.dimension))
        for name, spec in schema.item.items()
        if not isinstance(spec, IdFeature)
    }
    return Newcomers(encoders, config.dimension)


def _heads(similarity: str) -> tuple[Unit | Open, Unit | Lift]:
    if similarity == "cosine":
        return Unit(), Unit()
    radius = torch.ones(())
    return Open(radius), Lift(radius)


def _shared_towers(config: SharedTower, schema: Schema) -> Towers:
    """Both sides are encoded from the same tables and go through the same layers."""
    widths = (*config.hidden, config.dimension)
    ids = _item_table(schema, widths[0], 0.05)
    texts = nn.Parameter(torch.randn(config.buckets, widths[0]) * 0.05)
    hashing = hashing_of(config)
    makers: Makers = {
        TextFeature: lambda: HashedText(hashing, texts, torch.ones(config.buckets)),
        IdFeature: partial(Ids, ids),
        HistoryFeature: lambda: Pooled(ids, reach_of(schema), mean=True),
    }
    deep = nn.Sequential(Bias(widths[0]), nn.Tanh(), *_layers(widths)[:-1])
    radius = torch.ones(())
    query_head = Logistic(radius, config.dimension)
    return (
        Tower(_encoders(schema, "query", widths[0], makers), deep, query_head),
        Tower(_encoders(schema, "item", widths[0], makers), deep, Lift(radius)),
    )


def _bag_towers(config: BagTower, schema: Schema) -> Towers:
    """Both sides share a random table; each has weights and a residual part of its own."""
    hashing = hashing_of(config)
    table = nn.Parameter(torch.randn(config.buckets, config.dimension) / config.dimension**0.5)
    ids = _item_table(schema, config.dimension, 0.01)

    def tower(side: Side) -> Tower:
        hidden = config.item_hidden if side == "item" else config.query_hidden
        alone = len(getattr(schema, side)) == 1 and not hidden  # then the tower's own norm is enough

        def text() -> nn.Module:
            weights = nn.Parameter(torch.ones(config.buckets))
            return HashedText(hashing, table, weights, side == "item", normalise=not alone)

        makers: Makers = {
            TextFeature: text,
            IdFeature: partial(Ids, ids),
            HistoryFeature: lambda: Pooled(ids, reach_of(schema), mean=True),
        }
        deep = Residual(config.dimension, hidden) if hidden else nn.Identity()
        return Tower(_encoders(schema, side, config.dimension, makers), deep, Unit())

    return tower("query"), tower("item")


def _dssm_tower(config: DssmTower, schema: Schema, side: Side, ids: nn.Parameter) -> Tower:
    """Huang et al. 2013, equations 3 to 5; the paper's initialisation is uniform, as Xavier's."""
    hashing = hashing_of(config)
    widths = (*config.hidden, config.dimension)

    def text() -> nn.Module:
        table = nn.Parameter(torch.empty(config.buckets, widths[0]))
        nn.init.xavier_uniform_(table)
        return HashedText(hashing, table, torch.ones(config.buckets))

    makers: Makers = {
        TextFeature: text,
        IdFeature: partial(Ids, ids),
        HistoryFeature: lambda: Pooled(ids, reach_of(schema), mean=True),
    }
    encoders = _encoders(schema, side, widths[0], makers)
    return Tower(encoders, nn.Sequential(Bias(widths[0]), nn.Tanh(), *_layers(widths)), Unit())


def _layers(widths: tuple[int, ...]) -> list[nn.Module]:
    """A linear layer and a tanh for each step between two widths."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return layers


def _encoders(schema: Schema, side: Side, width: int, makers: Makers) -> dict[str, nn.Module]:
    return {name: _encoder(schema, side, name, width, makers) for name in getattr(schema, side)}


def _encoder(schema: Schema, side: Side, name: str, width: int, makers: Makers) -> nn.Module:
    spec = getattr(schema, side)[name]
    if type(spec) in makers:
        return makers[type(spec)]()
    if isinstance(spec, CategoryFeature):
        return Category(FIRST_KNOWN + len(schema.vocabularies[f"{side}.{name}"]), width)
    return Number(width)


def _item_table(schema: Schema, width: int, scale: float) -> nn.Parameter:
    """A table with a row for each known item, if any feature reads one; else an empty one."""
    keys = {vocabulary_of("query", name, spec) for name, spec in schema.query.items()}
    keys |= {vocabulary_of("item", name, spec) for name, spec in schema.item.items()}
    known = len(schema.vocabularies["items"]) if "items" in keys else 0
    return item_table(known, width if known else 0, scale)


def _of_kind(features: Mapping[str, Any], kind: type) -> list[str]:
    return [name for name, spec in features.items() if isinstance(spec, kind)]
