"""Towers: the features of a batch of queries or items in, vectors out.

    raw features -> encoders -> sum -> multilayer part -> head
                    factors ------------------------------^

The query tower and the item tower are two modules. `train/build.py` puts them together.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protos.features import UNKNOWN
from train.encoders import Bags
from train.heads import Head, Lift
from train.history import Windows

Inputs = Mapping[str, Tensor | Bags | Windows]


class Tower(nn.Module):
    """One side of a two-tower model.

    Args:
        encoders: a feature encoder for each feature, by name, all of width H.
        deep: the multilayer part, (B, H) -> (B, D).
        head: the last step, (B, D) -> the vector that is compared.
        factors: at most one more encoder, by the name of its feature; what it gives comes before what the
            multilayer part gives, and is not changed by it.
        prepare: what a feature goes through before it is encoded, by name.
        newcomers: what stands in for the encoders where the feature `id_name` holds an unknown id.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        deep: nn.Module,
        head: Head | Lift,
        factors: Mapping[str, nn.Module] | None = None,
        prepare: Mapping[str, nn.Module] | None = None,
        newcomers: "tuple[str, Newcomers] | None" = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.deep = deep
        self.head = head
        self.factors = nn.ModuleDict(factors or {})
        self.prepare = nn.ModuleDict(prepare or {})
        self.id_name = newcomers[0] if newcomers else ""
        self.newcomers: Newcomers | None = newcomers[1] if newcomers else None

    def forward(self, inputs: Inputs) -> Tensor:
        """Feature name -> code points, bags, rows, windows or numbers of B records; vectors (B, D)."""
        ready = dict(inputs)
        for name, step in self.prepare.items():
            ready[name] = step(ready[name])
        combined = self.combined(ready)
        if self.newcomers is not None:
            combined = self.newcomers(ready, ready[self.id_name], combined)
        parts = [factors(ready[name]) for name, factors in self.factors.items()]
        parts.append(self.deep(combined))
        vectors: Tensor = self.head(torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0])
        return vectors

    def combined(self, inputs: Inputs) -> Tensor:
        """The sum of the encoders, (B, H)."""
        parts = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
        total: Tensor = sum(parts[1:], start=parts[0])
        return total


class Newcomers(nn.Module):
    """What an item of an unknown id is known by: what its content says, and what all have in common.

    `train/newcomers.py` fits it.

    Args:
        encoders: of the content features, by name, all of width H; they are linear in what is fitted.
        width: H.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], width: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.common = nn.Parameter(torch.zeros(width))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)  # fitted, not learned

    def forward(self, inputs: Inputs, rows: Tensor, known: Tensor) -> Tensor:
        """What stands for each item: (B, H) `known` as it is, but of an unknown id what content says.

        Args:
            inputs: feature name -> values of B items.
            rows: int64 (B, 1), of the ids.
            known: (B, H), what the encoders of known items give.
        """
        said = self.common.expand_as(known)
        for name, encoder in self.encoders.items():
            said = said + encoder(inputs[name])
        return torch.where(rows == UNKNOWN, said, known)


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
