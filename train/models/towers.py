"""A tower: features of a batch of queries or items in, vectors out.

    features -> encoders -> sum -> deep layers -> concatenation -> mixtures -> head -> vectors
             -> factors ---------------------------^

The query tower and the item tower are two modules; `train/models/architectures/` builds them.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.protos.features import UNKNOWN
from twinspire.train.models.encoders import TextBags
from twinspire.train.models.heads import Head
from twinspire.train.models.placement import products
from twinspire.train.models.sequence_encoders import Windows

Part = Literal["recent", "mixture"]  # of a vector's coordinates, which `Mixture` adds
# The parts as they stand in a vector, before the tower's own coordinates.
PARTS: tuple[Part, Part] = ("mixture", "recent")
Inputs = Mapping[str, Tensor | TextBags | Windows]


class Tower(nn.Module):
    """One side of a two-tower model.

    Args:
        encoders: a feature encoder for each feature, by name, all of width H.
        deep: the deep layers, (B, H) -> (B, D).
        head: the last layer, (B, D) -> the final vector.
        factors: at most one more encoder, by the name of its feature; its output bypasses the deep layers and
            comes first in the vector.
        prepare: layers that a feature passes before it is encoded, by name.
        fallback: name of the id feature, and the layer that replaces the sum of the encoders for items with
            an unknown id.
        mixture: the layer that adds the coordinates of a linear model.
        recent: the layer that adds the coordinates of recent popularity.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        deep: nn.Module,
        head: Head,
        factors: Mapping[str, nn.Module] | None = None,
        prepare: Mapping[str, nn.Module] | None = None,
        fallback: "tuple[str, ContentFallback] | None" = None,
        mixture: "Mixture | None" = None,
        recent: "Mixture | None" = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.deep = deep
        self.head = head
        self.factors = nn.ModuleDict(factors or {})
        self.prepare = nn.ModuleDict(prepare or {})
        self.id_name = fallback[0] if fallback else ""
        # The names of attributes are keys of checkpoints and of the exported graph's weights.
        self.newcomers: ContentFallback | None = fallback[1] if fallback else None
        self.mixture = mixture
        self.recent = recent

    def forward(self, inputs: Inputs) -> Tensor:
        """Vectors (B, D) from the inputs of B records, by feature name."""
        prepared = dict(inputs)
        for name, layer in self.prepare.items():
            prepared[name] = layer(prepared[name])
        encoded = self.encode_features(prepared)
        if self.newcomers is not None:
            encoded = self.newcomers(prepared, prepared[self.id_name], encoded)
        parts = [factors(prepared[name]) for name, factors in self.factors.items()]
        parts.append(self.deep(encoded))
        joined = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
        joined = self.with_parts(prepared, joined)
        vectors: Tensor = self.head(joined)
        return vectors

    def with_parts(self, inputs: Inputs, own: Tensor) -> Tensor:
        """The coordinates (B, H) of the trained tower with those that training leaves out."""
        for part in reversed(PARTS):
            mixture: Mixture | None = getattr(self, part)
            if mixture is not None:
                own = mixture(inputs[mixture.feature], own)
        return own

    def remove(self, part: Part) -> None:
        """Take a part away, which is then None, as the end of a run may do."""
        setattr(self, part, None)

    def parts_before(self, part: Part) -> "list[Mixture]":
        """The parts that the tower has and whose coordinates stand before those of `part`."""
        before = [getattr(self, each) for each in PARTS[: PARTS.index(part)]]
        return [each for each in before if each is not None]

    def encode_features(self, inputs: Inputs) -> Tensor:
        """(B, H): the sum of the encoders; one that reads more than its feature names that as `beside`."""
        parts = [
            encoder(inputs[name], *(inputs[other] for other in getattr(encoder, "beside", ())))
            for name, encoder in self.encoders.items()
        ]
        total: Tensor = sum(parts[1:], start=parts[0])
        return total


class ContentFallback(nn.Module):
    """Encodes items with an unknown id: a linear function of the item's content, plus a constant.

    `train/models/cold_start.py` fits it after training.

    Args:
        encoders: encoders of the content features, by name, all of width H and linear in their parameters.
        width: H.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], width: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.common = nn.Parameter(torch.zeros(width))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)  # not trained by gradient

    def forward(self, inputs: Inputs, rows: Tensor, known: Tensor) -> Tensor:
        """(B, H): `known`, but the content encoding for items with an unknown id.

        Args:
            inputs: feature name -> inputs of B items.
            rows: int64 (B, 1), rows of the ids.
            known: (B, H), the sum of the tower's encoders.
        """
        content = self.common.expand_as(known)
        for name, encoder in self.encoders.items():
            content = content + encoder(inputs[name])
        return torch.where(rows == UNKNOWN, content, known)


class Mixture(nn.Module):
    """Adds coordinates of another model to those of a trained tower; both have a weight.

    The other model is a linear one, or recent popularity. `train/training/mixture.py` and
    `recent_popularity.py` beside it set it after training: before, it weighs 0. A step of training leaves
    these coordinates out.

    Args:
        feature: name of the feature that the other model reads.
        encoder: of the other model, (B, R), with a table of width R.
    """

    weights: Tensor

    def __init__(self, feature: str, encoder: nn.Module) -> None:
        super().__init__()
        self.feature = feature
        self.encoder = encoder
        self.register_buffer("weights", torch.tensor([0.0, 1.0]))  # of the other model, and of the tower
        for parameter in self.parameters():
            parameter.requires_grad_(False)  # not trained by gradient

    @property
    def width(self) -> int:
        """R, the number of coordinates."""
        table: Tensor = self.encoder.table  # type: ignore[assignment]
        return table.shape[1]

    def set_weights(self, other: float, own: float) -> None:
        """Set the weights of the other model and of the tower."""
        self.weights.copy_(torch.tensor([other, own]))

    def forward(self, rows: Tensor, own: Tensor) -> Tensor:
        """(B, R + D): the coordinates of the other model, then `own`; in training `own` alone.

        Args:
            rows: the other model's input, for B records.
            own: (B, D), coordinates of the trained tower.
        """
        if self.training:
            return own
        return torch.cat([self.encoder(rows) * self.weights[0], own * self.weights[1]], dim=-1)


class Residual(nn.Module):
    """x + W2 gelu(W1 x); W2 starts at zero, so the layer starts as the identity."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dimension, hidden)
        self.outer = nn.Linear(hidden, dimension)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        inner = F.gelu(products(x, self.inner.weight, self.inner.bias))
        return x + products(inner, self.outer.weight, self.outer.bias)


class Bias(nn.Module):
    """Adds a learned vector: the bias of a layer whose weight matrix is an embedding table."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H) -> (B, H)."""
        return x + self.bias
