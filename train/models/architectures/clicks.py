"""`[tower] kind = "clicks"`: a factorisation machine with one vector for each side, for labelled pairs.

A dot product of [u, b_u, 1] and [v, 1, b_v] is <u, v> + b_u + b_v. In this module W = D + 1 is the width of
an encoded feature: D coordinates of its vector, and its bias.
"""

import math
from collections.abc import Mapping
from typing import cast

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.protos.features import (
    FIRST_KNOWN,
    HistoryFeature,
    IdFeature,
    Schema,
    Side,
    TextFeature,
)
from twinspire.train.config.towers import ClicksTower
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.encoders import HashedTextEncoder, touched
from twinspire.train.models.placement import to_device_of
from twinspire.train.models.sequence_encoders import IdEncoder
from twinspire.train.models.tower_factory import (
    Architecture,
    EncoderFactories,
    Prepared,
    Towers,
    feature_encoder,
    shared_item_table,
)
from twinspire.train.models.towers import Bias, Head, Inputs, ItemDotHead, LogisticHead, Residual, Tower

USUAL_SHRINKAGE = 3.0  # start value, in items
SCALE = 0.01  # of embeddings at the start
# Of the means at the start, as validation chooses them on `movielens-clicks`; training learns on from there.
ITEM_SMOOTHING, USER_SMOOTHING, USER_FACTOR = 5.0, 20.0, 6.0


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


class ClicksArchitecture(Architecture[ClicksTower]):
    """Towers with biases; each history has item embeddings of its own."""

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        radius = torch.ones(())
        head = LogisticHead(radius, self.config.dimension + 2)
        return self._tower(schema, "query", head), self._tower(schema, "item", ItemDotHead(radius))

    def _tower(self, schema: Schema, side: Side, head: Head) -> ClickTower:
        config, width, hashing = self.config, self.config.dimension + 1, self.hashing()
        features = getattr(schema, side)
        histories = [name for name, spec in features.items() if isinstance(spec, HistoryFeature)]

        def text() -> nn.Module:
            table = nn.Parameter(torch.randn(config.buckets, width) * SCALE)
            return HashedTextEncoder(
                hashing, table, torch.ones(config.buckets), saturate=True, normalise=True
            )

        factories: EncoderFactories = {
            TextFeature: text,
            IdFeature: lambda: IdEncoder(_item_table(schema, width)),
        }
        encoders = {
            name: feature_encoder(schema, side, name, width, factories)
            for name in features
            if name not in histories
        }
        tables = {name: _item_table(schema, width) for name in histories}
        feedback = FeedbackEncoder(tables) if tables else None
        coordinates = QueryCoordinates(config.dropout) if side == "query" else ItemCoordinates()
        residual = [Residual(width, config.hidden)] if config.hidden else []
        return ClickTower(
            encoders,
            nn.Sequential(Bias(width), *residual, coordinates),
            head,
            feedback,
            config.crosses,
        )

    def initialize(
        self, towers: Towers, schema: Schema, data: TrainingData, prepared: Prepared, seed: int
    ) -> None:
        """Start as user and item means of the training labels.

        These are biases that the towers have: the log-odds of an item's shrunk share of positives, less those
        of all pairs, is the bias of its id. With histories of both kinds, an event's label less the share of
        its item is the bias of the item there (the formula is that of `train/evaluation/label_baselines.py`).
        """
        (query, item), pairs = towers, data.parts["train"]
        if pairs.label is None or not isinstance(query.head, LogisticHead):
            return
        rate = pairs.is_positive.mean().clip(0.001, 0.999)
        positives = np.bincount(pairs.item, pairs.is_positive, data.item_count)
        total = np.bincount(pairs.item, minlength=data.item_count)
        shares = (positives + ITEM_SMOOTHING * rate) / (total + ITEM_SMOOTHING)
        biases = {}
        for name, encoder in item.encoders.items():
            if isinstance(encoder, IdEncoder):
                biases[encoder.table] = scipy.special.logit(shares) - scipy.special.logit(rate)
                rows = prepared[1].arrays[name][:, 0].astype(np.int64)
        feedback = query.feedback if isinstance(query, ClickTower) else None
        with torch.no_grad():
            query.head.bias.fill_(float(scipy.special.logit(rate)))
            if feedback is not None and len(feedback.tables) == 2 and biases:
                feedback.shrinkage.fill_(math.log(USER_SMOOTHING))
                for name, table in feedback.tables.items():
                    biases[table] = USER_FACTOR * ((schema.query[name].kind == "history") - shares)
            for table, values in biases.items():
                known = np.flatnonzero(rows >= FIRST_KNOWN)
                start = values[known].astype(np.float32)  # a device may have no doubles
                table[to_device_of(rows[known], table), -1] = to_device_of(start, table)


ARCHITECTURE = ClicksArchitecture


def _item_table(schema: Schema, width: int) -> nn.Parameter:
    """Random embeddings of the known items; an unknown item has none, so its content decides."""
    table = shared_item_table(schema, width, SCALE)
    with torch.no_grad():
        table[:FIRST_KNOWN] = 0
    return table
