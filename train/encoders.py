"""Feature encoders: one raw feature of a record -> (B, H), ready to be added to the others.

A text reaches its encoder either as code points (B, L), which is what is exported and served, or as
`Bags` of rows that were hashed once before training. Both give the same sums; the first gathers and adds
(the exporter mishandles `embedding_bag`), the second uses `embedding_bag`, which is several times faster.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.hashing import WordHashing


@dataclass(frozen=True)
class Bags:
    """Hashed texts without their zeros, one after the other.

    Args:
        rows: int32 (T,), rows of the hashed table.
        counts: float32 (T,), how often each row occurs in its text.
        offsets: int64 (B,), where each text begins in `rows`.
    """

    rows: Tensor
    counts: Tensor
    offsets: Tensor


class HashedText(nn.Module):
    """The sum of the table's rows over the n-grams and words of a text, each times its weight.

    Args:
        hashing: code points -> rows.
        table: (buckets, H); may be shared between the two towers. Row 0 is never used.
        weights: (buckets,) of this tower alone, or None for a plain count.
        normalise: scale the sum to unit length; an empty text stays zero.
    """

    def __init__(
        self,
        hashing: WordHashing,
        table: nn.Parameter,
        weights: nn.Parameter | None,
        normalise: bool,
    ) -> None:
        super().__init__()
        self.hashing = hashing
        self.table = table
        self.weights = weights
        self.normalise = normalise

    def forward(self, text: Tensor | Bags) -> Tensor:
        """Code points (B, L) or bags of B texts -> (B, H)."""
        total = self._sum_bags(text) if isinstance(text, Bags) else self._sum_rows(text)
        return F.normalize(total, dim=-1) if self.normalise else total

    def _sum_rows(self, code_points: Tensor) -> Tensor:
        rows = self.hashing(code_points)  # (B, F)
        return self.weighted_table()[rows].sum(dim=1)

    def _sum_bags(self, bags: Bags) -> Tensor:
        scale = bags.counts if self.weights is None else bags.counts * self.weights[bags.rows]
        return F.embedding_bag(
            bags.rows, self.table, bags.offsets, mode="sum", per_sample_weights=scale
        )

    def weighted_table(self) -> Tensor:
        """(buckets, H): each row times its weight, row 0 at zero so that nothing needs a mask."""
        weights = torch.ones(len(self.table)) if self.weights is None else self.weights
        present = torch.ones_like(weights)
        present[0] = 0
        return self.table * (weights * present)[:, None]


class Category(nn.Module):
    """The mean of the embeddings of a record's categories; padding does not count.

    Args:
        size: rows of the vocabulary, padding and unknown included.
        dimension: H.
    """

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, dimension, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.01)
        with torch.no_grad():
            self.embedding.weight[0] = 0

    def forward(self, rows: Tensor) -> Tensor:
        """int64 (B, C) -> (B, H)."""
        present = (rows != 0).sum(dim=1, keepdim=True).clamp(min=1)
        embedded: Tensor = self.embedding(rows)
        return embedded.sum(dim=1) / present


class Number(nn.Module):
    """A linear map of the standardised number, or of "absent".

    Args:
        mean: over the training data.
        deviation: standard deviation over the training data.
        dimension: H.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: float, deviation: float, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("deviation", torch.tensor(deviation or 1.0))
        self.map = nn.Linear(2, dimension, bias=False)
        nn.init.normal_(self.map.weight, std=0.01)

    def forward(self, number: Tensor) -> Tensor:
        """float32 (B, 1), NaN where absent -> (B, H)."""
        absent = torch.isnan(number)
        standard = torch.where(absent, 0.0, (number - self.mean) / self.deviation)
        mapped: Tensor = self.map(torch.cat([standard, absent.float()], dim=1))
        return mapped
