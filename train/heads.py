"""The last step of a tower: from what it computes to the vector that is compared.

Item vectors are always of unit length, so that two items can be compared by distance, too. A cosine makes
them so by leaving the length out. An inner product keeps it: the item's vector gets one more coordinate
that fills it up to one common length, and the query's a zero there (Bachrach et al. 2014, section 3.1),
which changes no product and makes the order by product the order by distance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protos.bundle import Score
from train.encoders import unit

ROOM = 1.01  # of the radius beyond the longest item: the root of next to nothing would blow rounding up


class Unit(nn.Module):
    """Unit length, on either side: the product is a cosine."""

    def score(self) -> Score:
        """What a product is shown as."""
        return Score("cosine")

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        return unit(x)


class Open(nn.Module):
    """The query's side of an inner product.

    Args:
        radius: (), the item side's.
    """

    radius: Tensor

    def __init__(self, radius: Tensor) -> None:
        super().__init__()
        self.register_buffer("radius", radius)

    def score(self) -> Score:
        """What a product is shown as."""
        return Score("inner_product")

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D + 1)."""
        return F.pad(x * self.radius, (0, 1))


class Logistic(Open):
    """The query's side of sigmoid(w . (q * d) + b): the weights go into the query, the bias to the score.

    Args:
        radius: (), the item side's.
        dimension: D.
    """

    def __init__(self, radius: Tensor, dimension: int) -> None:
        super().__init__(radius)
        self.weight = nn.Parameter(torch.ones(dimension))
        self.bias = nn.Parameter(torch.zeros(()))

    def score(self) -> Score:
        """What a product is shown as."""
        return Score("sigmoid", float(self.bias.detach()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D + 1)."""
        return super().forward(x * self.weight)


class Lift(nn.Module):
    """The item's side of an inner product: x / radius, and what is missing to unit length.

    Args:
        radius: (), a little more than the longest item's length, once `enclose` has seen all of them.
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
    def enclose(self, vectors: Tensor) -> Tensor:
        """Set the radius by the vectors (N, D + 1) of all items, and give them as they are with it."""
        raw = vectors[:, :-1] * self.radius
        longest = torch.linalg.vector_norm(raw, dim=1).max()
        if longest > 0:
            self.radius.copy_(ROOM * longest)
        return self.forward(raw)


Head = Unit | Open | Lift


def logits_of(query_tower: nn.Module, products: Tensor) -> Tensor:
    """Products of any shape of a query tower's vectors and items', with the bias where there is one."""
    head = query_tower.head
    return products + head.bias if isinstance(head, Logistic) else products


def score_of(query_tower: nn.Module) -> Score:
    """What the product of a query tower's vector and an item's is shown as."""
    head = query_tower.head
    assert isinstance(head, Unit | Open)
    return head.score()
