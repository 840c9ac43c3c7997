"""Towers: the features of a query or an item in, one unit vector out.

    raw features -> encoders -> sum -> multilayer part -> L2 norm

The query tower and the item tower are two modules that may share a table. Both kinds put the same
encoders in front; what differs is the table's start, the weights, and the multilayer part.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protos.features import CategoryFeature, FeatureSpec, Schema, TextFeature
from train.config import BagTower, DssmTower
from train.encoders import Bags, Category, HashedText, Number
from train.hashing import WordHashing

Side = Literal["query", "item"]
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
        encoded = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
        combined = torch.stack(encoded).sum(dim=0) if len(encoded) > 1 else encoded[0]  # (B, H)
        return F.normalize(self.deep(combined), dim=-1)


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


@dataclass(frozen=True)
class Statistics:
    """What the towers' start takes from training data.

    Args:
        idf: (buckets,) inverse document frequency of each row of the hashed table over the items.
        numbers: `"<side>.<feature>"` -> mean and standard deviation.
    """

    idf: Tensor
    numbers: Mapping[str, tuple[float, float]]


def build_towers(
    config: BagTower | DssmTower, schema: Schema, statistics: Statistics
) -> tuple[Tower, Tower]:
    """Query tower and item tower, at their start.

    Everything random is drawn from torch's global generator.
    """
    towers = _bag_towers if isinstance(config, BagTower) else _dssm_towers
    query, item = towers(config, schema, statistics)  # type: ignore[arg-type]
    return query, item


def _bag_towers(
    config: BagTower, schema: Schema, statistics: Statistics
) -> tuple[Tower, Tower]:
    """A random projection of TF-IDF that both towers share, each with weights of its own."""
    hashing = WordHashing(config.orders, config.words, config.buckets)
    table = nn.Parameter(torch.randn(config.buckets, config.dimension) / config.dimension**0.5)

    def tower(side: Side) -> Tower:
        def text() -> HashedText:
            return HashedText(hashing, table, nn.Parameter(statistics.idf.clone()), normalise=True)

        encoders = {
            name: text() if isinstance(spec, TextFeature)
            else _other(side, name, spec, schema, statistics, config.dimension)
            for name, spec in getattr(schema, side).items()
        }
        deep = Residual(config.dimension, config.hidden) if config.hidden else nn.Identity()
        return Tower(encoders, deep)

    return tower("query"), tower("item")


def _dssm_towers(
    config: DssmTower, schema: Schema, statistics: Statistics
) -> tuple[Tower, Tower]:
    """Huang et al. 2013, equations 3 to 5: the first layer is the table, a row a trigram."""

    def tower(side: Side) -> Tower:
        widths = (*config.hidden, config.dimension)
        hashing = WordHashing(config.orders, False, config.buckets)

        def text() -> HashedText:
            table = nn.Parameter(torch.empty(config.buckets, widths[0]))
            nn.init.xavier_uniform_(table)
            return HashedText(hashing, table, None, normalise=False)

        encoders = {
            name: text() if isinstance(spec, TextFeature)
            else _other(side, name, spec, schema, statistics, widths[0])
            for name, spec in getattr(schema, side).items()
        }
        layers: list[nn.Module] = [Bias(widths[0]), nn.Tanh()]
        for before, after in zip(widths, widths[1:], strict=False):
            linear = nn.Linear(before, after)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        return Tower(encoders, nn.Sequential(*layers))

    return tower("query"), tower("item")
