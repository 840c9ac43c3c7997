"""Towers: the features of a batch of queries or items in, unit vectors out.

    raw features -> encoders -> sum -> multilayer part -> L2 norm

The query tower and the item tower are two modules. A kind of tower is a way to start them: what a text's
encoder is, whether the two sides share its table, and what the multilayer part is.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protos.features import FIRST_KNOWN, CategoryFeature, Schema, Side, TextFeature
from train.config import BagTower, DssmTower
from train.encoders import Bags, Category, HashedText, Number, unit
from train.hashing import WordHashing

Inputs = Mapping[str, Tensor | Bags]


class Tower(nn.Module):
    """One side of a two-tower model.

    Args:
        encoders: a feature encoder for each feature, by name, all of width H.
        deep: the multilayer part, (B, H) -> (B, D).
    """

    def __init__(self, encoders: Mapping[str, nn.Module], deep: nn.Module) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.deep = deep

    def forward(self, inputs: Inputs) -> Tensor:
        """Feature name -> code points, bags, rows or numbers of B records; unit vectors (B, D)."""
        combined = sum(encoder(inputs[name]) for name, encoder in self.encoders.items())  # (B, H)
        return unit(self.deep(combined))


class Residual(nn.Module):
    """x + W2 gelu(W1 x); W2 starts at zero, so the tower starts as its input."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dimension, hidden)
        self.outer = nn.Linear(hidden, dimension)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        delta: Tensor = self.outer(F.gelu(self.inner(x)))
        return x + delta


class Bias(nn.Module):
    """Adds a learned vector: the bias of a first layer whose matrix is the hashed table."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H) -> (B, H)."""
        return x + self.bias


def build_towers(config: BagTower | DssmTower, schema: Schema) -> tuple[Tower, Tower]:
    """Query tower and item tower before anything was learned or taken from data.

    Everything random is drawn from torch's global generator.
    """
    if isinstance(config, BagTower):
        return _bag_towers(config, schema)
    return _dssm_tower(config, schema, "query"), _dssm_tower(config, schema, "item")


def hashing_of(config: BagTower | DssmTower) -> WordHashing:
    """The word hashing in front of both towers."""
    words = isinstance(config, BagTower) and config.words
    return WordHashing(config.orders, words, config.buckets)


def _bag_towers(config: BagTower, schema: Schema) -> tuple[Tower, Tower]:
    """Both sides share a random table; each has weights and a residual part of its own."""
    hashing = hashing_of(config)
    table = nn.Parameter(torch.randn(config.buckets, config.dimension) / config.dimension**0.5)

    def tower(side: Side) -> Tower:
        hidden = config.item_hidden if side == "item" else config.query_hidden
        alone = len(getattr(schema, side)) == 1 and not hidden  # then the tower's own norm is enough

        def text() -> nn.Module:
            weights = nn.Parameter(torch.ones(config.buckets))
            return HashedText(hashing, table, weights, side == "item", normalise=not alone)

        deep = Residual(config.dimension, hidden) if hidden else nn.Identity()
        return Tower(_encoders(schema, side, config.dimension, text), deep)

    return tower("query"), tower("item")


def _dssm_tower(config: DssmTower, schema: Schema, side: Side) -> Tower:
    """Huang et al. 2013, equations 3 to 5; the paper's initialisation is uniform, as Xavier's."""
    hashing = hashing_of(config)
    widths = (*config.hidden, config.dimension)

    def text() -> nn.Module:
        table = nn.Parameter(torch.empty(config.buckets, widths[0]))
        nn.init.xavier_uniform_(table)
        return HashedText(hashing, table, torch.ones(config.buckets))

    encoders = _encoders(schema, side, widths[0], text)
    layers: list[nn.Module] = [Bias(widths[0]), nn.Tanh()]
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return Tower(encoders, nn.Sequential(*layers))


def _encoders(schema: Schema, side: Side, width: int, text: Callable[[], nn.Module]) -> dict[str, nn.Module]:
    def encoder(name: str, spec: Any) -> nn.Module:
        if isinstance(spec, TextFeature):
            return text()
        if isinstance(spec, CategoryFeature):
            return Category(FIRST_KNOWN + len(schema.vocabularies[f"{side}.{name}"]), width)
        return Number(width)

    return {name: encoder(name, spec) for name, spec in getattr(schema, side).items()}
