"""Layers of towers that predict clicks: pooled feedback, and crosses.

A dot product of [u, b_u, 1] and [v, 1, b_v] is <u, v> + b_u + b_v. In this module W = D + 1 is the width of
an encoded feature: D coordinates of its vector, and its bias.
"""

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.train.models.encoders import touched
from twinspire.train.models.heads import Head
from twinspire.train.models.towers import Inputs, Tower

USUAL_SHRINKAGE = 3.0  # start value, in items


class FeedbackEncoder(nn.Module):
    """Histories of positive and negative items, pooled together.

    The sum over all items of all histories is divided by their number plus k, a learned number of items: the
    share of positives among the items, and with it the query's bias, is drawn to the mean of all queries
    where the histories are short. SVD++ (Koren 2008, section 4) has such a sum.

    Args:
        tables: name of a history feature -> (V, W), embeddings of its items; row 0 does not count.
    """

    def __init__(self, tables: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.tables = nn.ParameterDict(tables)
        width = next(iter(tables.values())).shape[1]
        self.each = nn.ParameterDict({name: nn.Parameter(torch.zeros(1, width)) for name in tables})
        self.none = nn.Parameter(torch.zeros(1, width))
        self.shrinkage = nn.Parameter(torch.tensor(USUAL_SHRINKAGE).log())

    def forward(self, inputs: Inputs) -> Tensor:
        """Rows (B, L) of each history -> (B, W)."""
        total: Tensor | None = None
        count: Tensor | None = None
        for name, table in self.tables.items():
            rows = cast(Tensor, inputs[name])
            present = (rows != 0).to(table.dtype)[:, None]  # (B, 1, L)
            items = present.sum(dim=2)  # (B, 1)
            table, rows = touched(table, rows)
            pooled = (present @ F.embedding(rows, table)).squeeze(1) + items * self.each[name]
            total = pooled if total is None else total + pooled
            count = items if count is None else count + items
        assert total is not None and count is not None
        shrinkage = self.shrinkage.exp()
        return (total + shrinkage * self.none) / (count + shrinkage)


class ClickTower(Tower):
    """One side of a click model; its encoders may be few, and its histories are pooled together.

    Args:
        encoders: an encoder of width W for each feature but the histories.
        deep: (B, W) -> the coordinates of the side.
        feedback: the encoder of the histories, if there are any.
        crosses: add the products of features to the bias.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        deep: nn.Module,
        head: Head,
        feedback: FeedbackEncoder | None = None,
        crosses: bool = False,
    ) -> None:
        super().__init__(encoders, deep, head)
        self.feedback = feedback
        self.crosses = crosses

    def encode_features(self, inputs: Inputs) -> Tensor:
        """(B, W): the sum of the features' vectors and biases, with the products of features in the bias."""
        parts = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
        if self.feedback is not None:
            parts.append(self.feedback(inputs))
        if not self.crosses:
            total: Tensor = sum(parts[1:], start=parts[0])
            return total
        stacked = torch.stack(parts, dim=1)  # (B, F, W)
        summed = stacked.sum(dim=1)
        # The sum over pairs of features of their inner products (Rendle 2010, lemma 3.1).
        products = (summed.square() - stacked.square().sum(dim=1))[:, :-1].sum(dim=1, keepdim=True) / 2
        return torch.cat([summed[:, :-1], summed[:, -1:] + products], dim=1)


class QueryCoordinates(nn.Module):
    """(B, W) -> (B, D + 2): [u, b_u, 1], with dropout on u."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[u, b_u] -> [u, b_u, 1]."""
        return torch.cat([self.dropout(x[:, :-1]), x[:, -1:], torch.ones_like(x[:, -1:])], dim=1)


class ItemCoordinates(nn.Module):
    """(B, W) -> (B, D + 2): [v, 1, b_v]."""

    def forward(self, x: Tensor) -> Tensor:
        """[v, b_v] -> [v, 1, b_v]."""
        return torch.cat([x[:, :-1], torch.ones_like(x[:, -1:]), x[:, -1:]], dim=1)
