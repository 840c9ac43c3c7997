"""A tower: features of a batch of queries or items in, vectors out.

    features -> encoders -> sum -> deep layers -> concatenation -> mixtures -> head -> vectors
             -> factors ---------------------------^

The query tower and the item tower are two modules; `train/models/architectures/` builds them.

The head fixes how the two vectors are compared. Item vectors always have unit length, so that the index can
also compare two items by distance. For a cosine they are normalised. For an inner product the item vector
gets one more coordinate that fills it up to a common length, and the query vector a zero there (Bachrach et
al. 2014, section 3.1): the inner products stay the same, and the order by inner product is the order by
distance.

A query may have several vectors. They stand side by side in one row, (B, K * D), beside item vectors (N, D),
so K follows from the widths, and rows of one vector are computed as ever.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.protos.bundle import Score
from twinspire.protos.features import UNKNOWN
from twinspire.train.models.encoders import TextBags, l2_normalize
from twinspire.train.models.sequence_encoders import Windows

Part = Literal["recent", "mixture"]  # of a vector's coordinates, which `Mixture` adds
# The parts as they stand in a vector, before the tower's own coordinates.
PARTS: tuple[Part, Part] = ("mixture", "recent")
Inputs = Mapping[str, Tensor | TextBags | Windows]
# The radius is a little more than the longest item's length, because near zero a square root magnifies
# rounding errors.
RADIUS_MARGIN = 1.01


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
        head: "Head",
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
        for part in reversed(PARTS):  # which training leaves out
            mixture: Mixture | None = getattr(self, part)
            if mixture is not None:
                joined = mixture(prepared[mixture.feature], joined)
        vectors: Tensor = self.head(joined)
        return vectors

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

    The other model is a linear one, or recent popularity. `train/training/blending.py` sets it after
    training: before, it weighs 0. A step of training leaves these coordinates out.

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


class Head(nn.Module):
    """Base of all heads."""

    interests = 1  # K, the number of vectors of a query; of the query head

    def score(self) -> Score:
        """How the service converts an inner product to a score. Called on the query head."""
        raise NotImplementedError

    def logits(self, products: Tensor) -> Tensor:
        """Logits from inner products of any shape. Called on the query head."""
        return products

    def fit_to_catalogue(self, vectors: Tensor) -> Tensor:
        """Adapt to the vectors (N, D) of all items; returns their new vectors. Called on the item head."""
        return vectors


class CosineHead(Head):
    """Either side of a cosine: scales the vector to unit length."""

    def score(self) -> Score:
        """A cosine."""
        return Score("cosine")

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return l2_normalize(x)


class QueryDotHead(Head):
    """The query's side of an inner product.

    Args:
        radius: (), shared with the `ItemDotHead`.
    """

    radius: Tensor

    def __init__(self, radius: Tensor) -> None:
        super().__init__()
        self.register_buffer("radius", radius)

    def score(self) -> Score:
        """An inner product."""
        return Score("inner_product")

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D + 1)."""
        return F.pad(x * self.radius, (0, 1))


class InterestsHead(Head):
    """The query's side where a query has several vectors.

    Args:
        head: the query's side of each vector.
        interests: K.
    """

    def __init__(self, head: Head, interests: int) -> None:
        super().__init__()
        self.head = head
        self.interests = interests

    def score(self) -> Score:
        """That of each vector."""
        return self.head.score()

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, H) -> (B, K * D)."""
        vectors: Tensor = self.head(x)
        return vectors.flatten(1)


class LogisticHead(QueryDotHead):
    """The query's side of sigmoid(w . (q * d) + b): w is folded into the query vector, b into the score.

    Args:
        radius: (), shared with the `ItemDotHead`.
        dimension: D.
    """

    def __init__(self, radius: Tensor, dimension: int) -> None:
        super().__init__(radius)
        self.weight = nn.Parameter(torch.ones(dimension))
        self.bias = nn.Parameter(torch.zeros(()))

    def score(self) -> Score:
        """A sigmoid, with the bias."""
        return Score("sigmoid", float(self.bias.detach()))

    def logits(self, products: Tensor) -> Tensor:
        """Inner products plus the bias."""
        return products + self.bias

    @torch.no_grad()
    def calibrate(self, scale: float, shift: float) -> None:
        """Make each logit `scale` times itself, plus `shift`."""
        self.weight.mul_(scale)
        self.bias.mul_(scale).add_(shift)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D + 1)."""
        return super().forward(x * self.weight)


class ItemDotHead(Head):
    """The item's side of an inner product: x / radius, and a coordinate that completes it to unit length.

    Args:
        radius: (), set by `fit_to_catalogue`.
    """

    radius: Tensor

    def __init__(self, radius: Tensor) -> None:
        super().__init__()
        self.register_buffer("radius", radius)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D + 1)."""
        inside = x / self.radius
        missing = (1 - inside.square().sum(dim=-1, keepdim=True)).clamp(min=0).sqrt()
        return torch.cat([inside, missing.detach()], dim=-1)

    @torch.no_grad()
    def fit_to_catalogue(self, vectors: Tensor) -> Tensor:
        """Set the radius by the vectors (N, D + 1) of all items; returns their vectors for the new radius."""
        raw = vectors[:, :-1] * self.radius
        longest = torch.linalg.vector_norm(raw, dim=1).max()
        if longest > 0:
            self.radius.copy_(RADIUS_MARGIN * longest)
        return self.forward(raw)


def products(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, N): x (B, D) times the transpose of weight (N, D), plus bias (N,).

    On a CPU by oneDNN, as torch takes MKL by default, which on AMD's processors is half as fast.
    """
    is_other = torch.compiler.is_exporting() or not x.is_cpu or x.dtype != torch.float32
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if is_other or not (has_onednn and len(x) and len(weight)):
        return F.linear(x, weight, bias)
    return F.linear(x.to_mkldnn(), weight, bias).to_dense()


def largest_products(queries: Tensor, items: Tensor) -> Tensor:
    """(Q, N): the inner product of each query and item; of a query of several vectors, the largest.

    Args:
        queries: (Q, K * D).
        items: (N, D).
    """
    if queries.shape[1] == items.shape[1]:
        return products(queries, items)
    vectors = _each(queries, items).unbind(1)
    best = products(vectors[0], items)
    for each in vectors[1:]:  # one after another: all products at once would take K times the memory
        best = torch.maximum(best, products(each, items))
    return best


def paired_products(queries: Tensor, items: Tensor) -> Tensor:
    """(P,): the inner product of each pair; of a query of several vectors, the largest.

    Args:
        queries: (P, K * D).
        items: (P, D).
    """
    if queries.shape[1] == items.shape[1]:
        return (queries * items).sum(dim=1)
    return (_each(queries, items) @ items[:, :, None]).amax(dim=(1, 2))


def route(queries: Tensor, query: Tensor, own: Tensor) -> Tensor:
    """(P, D): for each pair the vector of its query that has the largest inner product with its item.

    Hard routing (Cen et al. 2020, equation 6): no gradient passes through the choice.

    Args:
        queries: (B, K * D).
        query: int64 (P,), the place of each pair's query.
        own: (P, D), the vector of each pair's item.
    """
    each = _each(queries, own)[query]  # (P, K, D)
    best = (each.detach() @ own.detach()[:, :, None]).argmax(dim=1)  # (P, 1)
    return each.gather(1, best[:, :, None].expand(-1, -1, each.shape[2]))[:, 0]


def _each(queries: Tensor, items: Tensor) -> Tensor:
    """(Q, K, D) of (Q, K * D), for items (N, D)."""
    return queries.view(len(queries), -1, items.shape[1])
