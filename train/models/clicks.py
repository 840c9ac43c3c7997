"""Layers of towers that predict clicks: pooled feedback, crosses, additive parts.

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
ADDITIVE = "additive"  # the part of a click tower that holds an additive model


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


class AdditivePart(nn.Module):
    """One side of an additive model of labels, mixed with the bias of the trained tower.

    The model adds up a number for each value of the side's categories and ids; of histories, a number for
    each item is summed, and divided by their length plus a smoothing. `train/training/additive_model.py` sets
    it after training: before, it changes nothing.

    Args:
        sizes: name of a category or an id -> V, rows of its table.
        histories: name of a history -> V, likewise.
        width: D + 2.
        bias_index: of the side's bias among the coordinates.

    Attributes:
        value_tables: name of a category or an id -> table (V,), with zeros for padding and unknown values.
        history_tables: name of a history -> table (V,), likewise.
        tower_factors: (D + 2,), factors of the tower's coordinates.
        model_factors: (D + 2,), zero, but at `bias_index` the weight of the model.
    """

    smoothing: Tensor
    tower_factors: Tensor
    model_factors: Tensor

    def __init__(
        self, sizes: Mapping[str, int], histories: Mapping[str, int], width: int, bias_index: int
    ) -> None:
        super().__init__()
        self.value_tables, self.history_tables = _zeros(sizes), _zeros(histories)
        self.bias_index = bias_index
        self.register_buffer("smoothing", torch.ones(()))
        self.register_buffer("tower_factors", torch.ones(width))
        self.register_buffer("model_factors", torch.zeros(width))

    def forward(self, inputs: Inputs, coordinates: Tensor) -> Tensor:
        """(B, D + 2) -> (B, D + 2)."""
        return coordinates * self.tower_factors + self.logits(inputs)[:, None] * self.model_factors

    def logits(self, inputs: Inputs) -> Tensor:
        """(B,): the side's part of the model's logits."""
        parts = [table[cast(Tensor, inputs[name])].sum(dim=1) for name, table in self.value_tables.items()]
        if len(self.history_tables):
            histories = [(table, cast(Tensor, inputs[name])) for name, table in self.history_tables.items()]
            total = _added([table[rows].sum(dim=1) for table, rows in histories])
            count = _added([(rows != 0).to(total.dtype).sum(dim=1) for _, rows in histories])
            parts.append(total / (count + self.smoothing))
        return _added(parts) if parts else torch.zeros_like(self.tower_factors[:1])


def _added(tensors: list[Tensor]) -> Tensor:
    total: Tensor = sum(tensors[1:], start=tensors[0])
    return total


def _zeros(sizes: Mapping[str, int]) -> nn.ParameterDict:
    return nn.ParameterDict(
        {name: nn.Parameter(torch.zeros(size), requires_grad=False) for name, size in sizes.items()}
    )


class ClickTower(Tower):
    """One side of a click model; its encoders may be few, and its histories are pooled together.

    Args:
        encoders: an encoder of width W for each feature but the histories.
        deep: (B, W) -> the coordinates of the side.
        feedback: the encoder of the histories, if there are any.
        crosses: add the products of features to the bias.
        additive: the side's part of an additive model, if it has one; it is left out in training.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        deep: nn.Module,
        head: Head,
        feedback: FeedbackEncoder | None = None,
        crosses: bool = False,
        additive: AdditivePart | None = None,
    ) -> None:
        super().__init__(encoders, deep, head)
        self.feedback = feedback
        self.crosses = crosses
        self.additive: AdditivePart | None = additive

    @property
    def optional(self) -> tuple[str, ...]:
        """Also the part of an additive model."""
        return (*super().optional, ADDITIVE)

    def with_parts(self, inputs: Inputs, own: Tensor) -> Tensor:
        """(B, D + 2): the coordinates with the additive model in the bias."""
        own = super().with_parts(inputs, own)
        return own if self.additive is None or self.training else self.additive(inputs, own)

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
