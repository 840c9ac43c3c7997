"""Feature encoders: one raw feature of a batch of records -> (B, H), ready to be added to the others.

A text reaches its encoder either as code points (B, L), which is what is exported and served, or as
`Bags` of rows that were hashed once before training. Both give the same sums: the first gathers and
adds, because the exporter mishandles `embedding_bag`; the second is several times faster on a CPU.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.hashing import WordHashing, latest

MOST_OCCURRENCES = 64  # of one n-gram or word in one text; more count as this many


@dataclass(frozen=True)
class Bags:
    """Hashed texts, one after the other, each row of the table at most once a text.

    Args:
        rows: int32 (T,), rows of the hashed table, never 0.
        counts: float32 (T,), how often each row occurs in its text.
        offsets: int32 (B,), where each text begins in `rows`.
    """

    rows: Tensor
    counts: Tensor
    offsets: Tensor


class HashedText(nn.Module):
    """The sum of a table's rows over the n-grams and words of a text.

    Args:
        hashing: code points -> rows.
        table: (buckets, H); may be shared between the two towers. Row 0 is not used.
    """

    def __init__(self, hashing: WordHashing, table: nn.Parameter) -> None:
        super().__init__()
        self.hashing = hashing
        self.table = table
        self.frozen: Tensor | None
        self.register_buffer("frozen", None, persistent=False)

    def freeze(self) -> None:
        """Work the effective table out once and for all: for inference, which would do it in each call."""
        self.frozen = self.effective_table().detach()

    def forward(self, text: Tensor | Bags) -> Tensor:
        """Code points (B, L) or bags of B texts -> (B, H): for each row, count times row."""
        if isinstance(text, Bags):
            return self.sum_bags(text, text.counts)
        return self.sum_rows(self.hashing(text))

    def sum_bags(self, bags: Bags, scale: Tensor) -> Tensor:
        """Sum of the rows times `scale` (T,): (B, H)."""
        return F.embedding_bag(
            bags.rows, self.table, bags.offsets, mode="sum", per_sample_weights=scale
        )

    def sum_rows(self, rows: Tensor) -> Tensor:
        """Sum of the rows (B, F): (B, H). Row 0 adds nothing, so it needs no mask."""
        embedded = self.lookup(rows)  # (B, F, H)
        present = rows.clamp(max=1).to(embedded.dtype).unsqueeze(1)
        return (present @ embedded).squeeze(1)  # ONNX Runtime is faster at products than at sums

    def lookup(self, rows: Tensor) -> Tensor:
        """What each of the rows (B, F) adds: (B, F, H)."""
        table = self.effective_table() if self.frozen is None else self.frozen
        return F.embedding(rows, table)

    def effective_table(self) -> Tensor:
        """(buckets, H): what a row adds to the sum."""
        return torch.cat([torch.zeros_like(self.table[:1]), self.table[1:]])


class WeightedText(HashedText):
    """As `HashedText`, with a learned weight for each row.

    With weights at IDF, a random table and `saturate` this is a random projection of TF-IDF with square
    roots of the counts (Salton and Buckley 1988 compare such weightings): a text that repeats a word is
    not that many times more about it. An empty text stays zero.

    Args:
        weights: (buckets,) of this tower alone.
        saturate: count each row by the square root of its occurrences.
        normalise: scale the sum to unit length, so that it weighs as much as any other feature.
    """

    def __init__(
        self,
        hashing: WordHashing,
        table: nn.Parameter,
        weights: Tensor,
        saturate: bool,
        normalise: bool = True,
    ) -> None:
        super().__init__(hashing, table)
        self.weights = nn.Parameter(weights)
        self.saturate = saturate
        self.normalise = normalise
        places = torch.arange(MOST_OCCURRENCES + 1).sqrt()
        self.increments: Tensor
        self.register_buffer("increments", F.pad(places.diff(), (0, 1)), persistent=False)

    def forward(self, text: Tensor | Bags) -> Tensor:
        """Code points (B, L) or bags of B texts -> (B, H)."""
        if isinstance(text, Bags):
            counts = text.counts.clamp(max=MOST_OCCURRENCES).sqrt() if self.saturate else text.counts
            total = self.sum_bags(text, counts * self.weights[text.rows])
        elif self.saturate:
            total = self._sum_saturated(self.hashing(text))
        else:
            total = self.sum_rows(self.hashing(text))
        return unit(total) if self.normalise else total

    def effective_table(self) -> Tensor:
        """(buckets, H): each row times its weight, row 0 at zero."""
        return super().effective_table() * self.weights[:, None]

    def _sum_saturated(self, rows: Tensor) -> Tensor:
        """The n-th occurrence of a row adds sqrt(n) - sqrt(n - 1) times the row: (B, H)."""
        ordered, _ = rows.sort(dim=1)  # (B, F): occurrences of a row follow each other
        first = ordered != F.pad(ordered[:, :-1], (1, 0), value=-1)
        place = torch.arange(1, rows.shape[1] + 1, device=rows.device)
        start = latest(place * first, MOST_OCCURRENCES)
        nth = torch.where(start == 0, MOST_OCCURRENCES, place - start)  # from 0
        share = F.embedding(nth, self.increments[:, None])  # (B, F, 1)
        return (share.transpose(1, 2) @ self.lookup(ordered)).squeeze(1)


def unit(x: Tensor) -> Tensor:
    """(B, H) scaled to unit length; zero stays zero. Fewer nodes than `F.normalize` when exported."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)


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
        dimension: H.
        mean: over the training data.
        deviation: standard deviation over the training data; 0 is read as 1.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dimension: int, mean: float = 0.0, deviation: float = 1.0) -> None:
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
