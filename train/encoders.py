"""Feature encoders: one raw feature of a batch of records -> (B, H), ready to be added to the others.

A text reaches its encoder either as code points (B, L), which is what is exported and served, or as
`Bags` of rows that were hashed once before training. Both give the same sums: the first gathers and
adds, because the exporter mishandles `embedding_bag`; the second is several times faster on a CPU.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.hashing import WordHashing, look_up

MOST_OCCURRENCES = 64  # of one n-gram or word in one text; more count as this many
FARTHEST = 1000.0  # deviations of a number from its mean; what is farther would overflow


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
    """The weighted sum of a table's rows over the n-grams and words of a text.

    With weights at IDF, a random table and `saturate` this is a random projection of TF-IDF with square
    roots of the counts (Salton and Buckley 1988 compare such weightings): a text that repeats a word is
    not that many times more about it.

    Args:
        hashing: code points -> rows.
        table: (buckets, H); may be shared between the two towers.
        weights: (buckets,) of this tower alone; a parameter is learned. That of row 0, which stands for
            "nothing here", is zero and stays so, because no bag holds it.
        saturate: count each row by the square root of its occurrences.
        normalise: scale the sum to unit length, so that it weighs as much as any other feature; an empty
            text stays zero.
    """

    weights: Tensor
    increments: Tensor

    def __init__(
        self,
        hashing: WordHashing,
        table: nn.Parameter,
        weights: Tensor,
        saturate: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.hashing = hashing
        self.table = table
        if isinstance(weights, nn.Parameter):
            self.weights = weights
        else:
            self.register_buffer("weights", weights, persistent=False)
        with torch.no_grad():
            self.weights[0] = 0
        self.saturate = saturate
        self.normalise = normalise
        places = torch.arange(MOST_OCCURRENCES + 1).sqrt()
        self.register_buffer("increments", F.pad(places.diff(), (0, 1)), persistent=False)

    def forward(self, text: Tensor | Bags) -> Tensor:
        """Code points (B, L) or bags of B texts -> (B, H)."""
        total = self._of_bags(text) if isinstance(text, Bags) else self._of_rows(self.hashing(text))
        return unit(total) if self.normalise else total

    def _of_bags(self, bags: Bags) -> Tensor:
        counts = bags.counts.clamp(max=MOST_OCCURRENCES).sqrt() if self.saturate else bags.counts
        scale = counts * look_up(self.weights, bags.rows)  # indexing would learn in no fixed order
        return F.embedding_bag(bags.rows, self.table, bags.offsets, mode="sum", per_sample_weights=scale)

    def _of_rows(self, rows: Tensor) -> Tensor:
        """Rows (B, F) -> (B, H)."""
        if self.saturate:
            rows, _ = rows.sort(dim=1)  # occurrences of a row follow each other
        scale = look_up(self.weights, rows)  # (B, F)
        if self.saturate:
            scale = scale * look_up(self.increments, self._nth(rows))
        return (scale.unsqueeze(1) @ F.embedding(rows, self.table)).squeeze(1)

    def _nth(self, ordered: Tensor) -> Tensor:
        """For each place in sorted rows (B, F) the which occurrence it is, from 0.

        The n-th occurrence adds sqrt(n + 1) - sqrt(n), which sums to the root of the count.
        """
        first = ordered != F.pad(ordered[:, :-1], (1, 0), value=-1)
        place = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        start = latest(place * first, MOST_OCCURRENCES)
        return torch.where(start == 0, MOST_OCCURRENCES, place - start)


def latest(rising: Tensor, reach: int) -> Tensor:
    """The largest value at or before each place, at most `reach - 1` places back, or 0.

    A running maximum by pooling, because ONNX has no cumulative maximum.

    Args:
        rising: integers (B, L) at least 0 and below 2^53, where doubles are exact.

    Returns:
        int64 (B, L)
    """
    padded = F.pad(rising.double()[:, None, None], (reach - 1, 0))
    return F.max_pool2d(padded, (1, reach), stride=1).squeeze((1, 2)).long()


def unit(x: Tensor) -> Tensor:
    """(B, H) scaled to unit length; zero stays zero, and its gradient is that of x.

    Dividing by a tiny bound instead would make that gradient tremendous, and one text without a letter
    in the first batch would keep Adam from ever moving the biases behind it.
    """
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(length == 0, 1.0)


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
        mapped: Tensor = self.map(self.standard(number))
        return mapped

    def standard(self, number: Tensor) -> Tensor:
        """float32 (B, 1), NaN where absent -> (B, 2), the standardised number and whether it is absent."""
        absent = torch.isnan(number)
        standard = ((number - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)
        return torch.cat([torch.where(absent, 0.0, standard), absent.float()], dim=1)
