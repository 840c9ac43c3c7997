"""Feature encoders: one feature of B records -> (B, H). The tower adds the outputs of its encoders.

The input of a text encoder is either code points (B, L), as in the exported graph, or `TextBags`, which were
hashed once before training. Both give the same sums. Code points are gathered and summed, because the
exporter does not handle `embedding_bag`; bags are several times faster on a CPU.

The gradient of a small table is as large as the table, most of it zeros. That of a large one on a CPU is a
sparse tensor: the distinct rows that a batch looks up, and the gradient of each. To fill and sum dense ones
takes long, and ranks (`train/training/process.py`) split such tables.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.train.models.text_hashing import WordHashing, look_up

MAX_OCCURRENCES = 64  # of one n-gram or word in one text; further ones do not count
MAX_DEVIATIONS = 1000.0  # a number farther from its mean is clipped to avoid overflow
ROWS_FROM = 1 << 20  # numbers in a table from which on its gradients are sparse, on a CPU


@dataclass(frozen=True)
class TextBags:
    """B hashed texts, concatenated; a row of the table occurs at most once in a text.

    Args:
        rows: int32 (T,), rows of the hashed table, never 0.
        counts: float32 (T,), occurrences of each row in its text.
        offsets: int32 (B,), index of each text's first entry in `rows`.
    """

    rows: Tensor
    counts: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class FetchedRows:
    """The rows of a table that ranks have split, as far as a batch looks them up.

    They are the attribute `fetched` of such a table (`train/training/split_tables.py`); None before any.

    Args:
        values: (U, H).
        rows: int64 (U,), their numbers in the table.
        places: int64 (V,), the place among them of each row of the table; of others -1, an error
            in a lookup.
    """

    values: Tensor
    rows: Tensor
    places: Tensor


class HashedTextEncoder(nn.Module):
    """The weighted sum of embeddings over the n-grams and words of a text.

    With IDF as weights, a random table and `saturate` this is a random projection of TF-IDF with square
    roots of the counts (Salton and Buckley 1988 compare such weightings).

    Args:
        hashing: code points -> rows of the table.
        table: (buckets, H); may be shared by both towers.
        weights: (buckets,), one weight for each row; trained if it is a parameter. Row 0 is padding: its
            weight is zero and stays zero, because no bag holds it.
        saturate: count each row by the square root of its occurrences.
        normalise: scale the sum to unit length, as a counterpart to other features; an empty text stays
            zero.
        from_scratch: the table starts without meaning, so it has to learn as fast as other matrices.
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
        from_scratch: bool = False,
    ) -> None:
        super().__init__()
        self.from_scratch = from_scratch
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
        roots = torch.arange(MAX_OCCURRENCES + 1).sqrt()
        self.register_buffer("increments", F.pad(roots.diff(), (0, 1)), persistent=False)

    def forward(self, text: Tensor | TextBags) -> Tensor:
        """Code points (B, L) or bags of B texts -> (B, H)."""
        total = self._of_bags(text) if isinstance(text, TextBags) else self._of_rows(self.hashing(text))
        return l2_normalize(total) if self.normalise else total

    def _of_bags(self, bags: TextBags) -> Tensor:
        counts = bags.counts.clamp(max=MAX_OCCURRENCES).sqrt() if self.saturate else bags.counts
        table: Tensor = self.table
        weights, rows = self.weights, bags.rows
        fetched: FetchedRows | None = getattr(table, "fetched", None)
        if fetched is not None:
            table, rows = touched(table, rows)
            weights = weights.index_select(0, fetched.rows)
        given = table, weights, rows, counts, bags.offsets
        total: Tensor = _WeightedSums.apply(*given)  # type: ignore[no-untyped-call]
        return total

    def _of_rows(self, rows: Tensor) -> Tensor:
        """Rows (B, F) -> (B, H)."""
        if self.saturate:
            rows, _ = rows.sort(dim=1)  # puts the occurrences of a row side by side
        scale = look_up(self.weights, rows)  # (B, F)
        if self.saturate:
            scale = scale * look_up(self.increments, self._occurrence(rows))
        return (scale.unsqueeze(1) @ F.embedding(rows, self.table)).squeeze(1)

    def _occurrence(self, ordered: Tensor) -> Tensor:
        """Int64 (B, F): for each place in sorted rows, the number of earlier occurrences of its row.

        Occurrence n adds sqrt(n + 1) - sqrt(n); the sum is the square root of the count.
        """
        first = ordered != F.pad(ordered[:, :-1], (1, 0), value=-1)
        place = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        # The largest of the last `MAX_OCCURRENCES` starts, or 0, by pooling: ONNX has no cumulative maximum.
        # Doubles are exact below 2^53.
        starts = F.pad((place * first).double()[:, None, None], (MAX_OCCURRENCES - 1, 0))
        start = F.max_pool2d(starts, (1, MAX_OCCURRENCES), stride=1).squeeze((1, 2)).long()
        return torch.where(start == 0, MAX_OCCURRENCES, place - start)


class _WeightedSums(torch.autograd.Function):
    """(B, H): for each bag the sum of its rows of a table, times their weights and counts.

    The gradient of a row sums those of the bags that hold it: a bag of bags. `embedding_bag` sums these
    several times faster than its own backward pass does.
    """

    @staticmethod
    def forward(
        ctx: Any, table: Tensor, weights: Tensor, rows: Tensor, counts: Tensor, offsets: Tensor
    ) -> Tensor:
        ctx.save_for_backward(table, weights, rows, counts, offsets)
        scale = counts * look_up(weights, rows)
        return F.embedding_bag(rows, table, offsets, mode="sum", per_sample_weights=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, weights, rows, counts, offsets = ctx.saved_tensors
        order = rows.argsort(stable=True)
        distinct, held = rows[order].long().unique_consecutive(return_counts=True)  # (U,)
        lengths = offsets.diff(append=offsets.new_full((1,), len(rows)))
        bags = torch.repeat_interleave(lengths.long())[order]
        begin, counts = held.cumsum(0) - held, counts[order].to(grad.dtype)
        grad = grad.contiguous()
        sums = F.embedding_bag(bags, grad, begin, mode="sum", per_sample_weights=counts)  # (U, H)
        of_weights = torch.zeros_like(weights)
        of_weights[distinct] = (sums * F.embedding(distinct, table)).sum(dim=1)
        sums *= look_up(weights, distinct)[:, None]
        if not has_row_gradients(table):
            return torch.zeros_like(table).index_copy(0, distinct, sums), of_weights, None, None, None
        of_table = torch.sparse_coo_tensor(distinct[None], sums, table.shape, check_invariants=False)
        return of_table, of_weights, None, None, None


def l2_normalize(x: Tensor) -> Tensor:
    """(B, H) scaled to unit length; a zero vector stays zero, with the gradient of x.

    `F.normalize` divides by a tiny number there. The gradient becomes so large that one empty text in the
    first batch keeps Adam from changing the biases before it.
    """
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(length == 0, 1.0)


class CategoryEncoder(nn.Module):
    """The mean of the embeddings of a record's categories, without padding.

    Args:
        size: rows of the embedding, including padding and "unknown".
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
        table, local = touched(self.embedding.weight, rows, padding=0)
        embedded: Tensor = self.embedding(rows) if local is rows else F.embedding(local, table)
        return embedded.sum(dim=1) / present


class NumberEncoder(nn.Module):
    """A linear map of the standardised number and of whether it is absent.

    Args:
        dimension: H.
        mean: over the training data.
        deviation: standard deviation over the training data; 0 is taken as 1.
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
        mapped: Tensor = self.map(self.standardize(number))
        return mapped

    def standardize(self, number: Tensor) -> Tensor:
        """float32 (B, 1), NaN where absent -> (B, 2): the standardised number, and 1 where it is absent."""
        absent = torch.isnan(number)
        standard = ((number - self.mean) / self.deviation).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        return torch.cat([torch.where(absent, 0.0, standard), absent.float()], dim=1)


def has_row_gradients(table: Tensor) -> bool:
    """Whether the gradient of a table is a sparse tensor of the rows that a step looks up."""
    return table.requires_grad and table.is_cpu and table.numel() >= ROWS_FROM


def touched(table: Tensor, rows: Tensor, padding: int | None = None) -> tuple[Tensor, Tensor]:
    """A table to look rows up in, and the rows: of a large table the part that is looked up.

    Args:
        table: (V, H).
        rows: integers of any shape.
        padding: a row that gets no gradient.

    Returns:
        (U, H), the distinct rows, or those that were fetched, and integers of the shape of `rows` below U;
        both unchanged if the gradient of a table that is not split is not sparse, or not wanted.
    """
    fetched: FetchedRows | None = getattr(table, "fetched", None)
    if fetched is not None:
        values = fetched.values
        if padding is not None:
            values = torch.where((fetched.rows == padding)[:, None], values.detach(), values)
        return values, fetched.places[rows.long()].to(rows.dtype)
    if not has_row_gradients(table) or not torch.is_grad_enabled():
        return table, rows
    occurs = torch.zeros(len(table), dtype=torch.bool, device=rows.device)
    occurs[rows.flatten().long()] = True
    distinct = occurs.nonzero()[:, 0]  # (U,), ascending
    place = torch.zeros(len(table), dtype=rows.dtype, device=rows.device)
    place[distinct] = torch.arange(len(distinct), dtype=rows.dtype, device=rows.device)
    return F.embedding(distinct, table, padding, sparse=True), place[rows.long()]
