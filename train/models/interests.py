"""Queries of several vectors: the encoder of ComiRec-SA, and how such queries meet items.

A row of query vectors holds the K vectors of a query side by side, (B, K * D); item vectors are (N, D). So K
follows from the widths, and rows of one vector are computed as ever.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.train.models.encoders import touched
from twinspire.train.models.placement import products
from twinspire.train.models.sequence_encoders import History, Windows, dropout


class InterestsEncoder(nn.Module):
    """K vectors of a history, each a weighted mean of its items (Cen et al. 2020, equation 3).

    The weight of item j in the mean of interest k is the softmax over all items of
    w_k tanh(W e_j) + b_kn, with n items after j; the paper adds an embedding of the position to e_j instead,
    which depends on where the window of a history begins.

    Args:
        table: (V, H), shared with the item tower; row 0 is the empty history.
        interests: K.
        hidden: rows of W.
        input_dropout: on the embedded items.
        positions: number of positions of the longest history or window.
    """

    def __init__(
        self, table: nn.Parameter, interests: int, hidden: int, input_dropout: float, positions: int
    ) -> None:
        super().__init__()
        self.table = table
        self.input_dropout = input_dropout
        self.inner = nn.Linear(table.shape[1], hidden, bias=False)
        self.outer = nn.Linear(hidden, interests, bias=False)
        self.distance = nn.Parameter(torch.zeros(positions, interests))

    def forward(self, history: History) -> Tensor:
        """Rows (B, L) or windows of B records -> (B, K, H)."""
        if isinstance(history, Windows):
            return history.pick(self._pool(history.rows, history.rows.shape[1]))
        return self._pool(history, 1)[:, 0]

    def _pool(self, rows: Tensor, count: int) -> Tensor:
        """(B, count, K, H): for each of the last `count` places the K vectors of the history up to it."""
        table, used = touched(self.table, rows)
        items = dropout(F.embedding(used, table), self.input_dropout, self.training)  # (B, L, H)
        place = torch.arange(rows.shape[1], device=rows.device)
        offset = (place[:, None] - place)[-count:]  # (Q, L), above 0 for earlier places
        # A place weighs itself even where it is padding, else the softmax has no term.
        masked = (offset < 0) | (rows == 0)[:, None] & (offset > 0)  # (B, Q, L)
        bias = F.embedding(offset.clamp(min=0), self.distance).permute(2, 0, 1)  # (K, Q, L)
        logits = self.outer(torch.tanh(self.inner(items))).transpose(1, 2)[:, :, None]  # (B, K, 1, L)
        weights = (logits + bias).masked_fill(masked[:, None], float("-inf")).softmax(dim=-1)
        pooled: Tensor = weights.flatten(1, 2) @ items  # (B, K * Q, H)
        return pooled.view(len(rows), len(bias), count, -1).transpose(1, 2)


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
