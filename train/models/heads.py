"""Heads: the last layer of a tower. It fixes how the two vectors are compared.

Item vectors always have unit length, so that the index can also compare two items by distance. For a cosine
they are normalised. For an inner product the item vector gets one more coordinate that fills it up to a
common length, and the query vector a zero there (Bachrach et al. 2014, section 3.1): the inner products stay
the same, and the order by inner product is the order by distance.

A query may have several vectors. They stand side by side in one row, (B, K * D), beside item vectors (N, D),
so K follows from the widths, and rows of one vector are computed as ever.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.protos.bundle import Score
from twinspire.train.models.encoders import l2_normalize
from twinspire.train.models.placement import products

# The radius is a little more than the longest item's length, because near zero a square root magnifies
# rounding errors.
RADIUS_MARGIN = 1.01


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
