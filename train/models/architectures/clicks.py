"""`[tower] kind = "clicks"`: a factorisation machine with one vector for each side, for labelled pairs."""

import math

import numpy as np
import scipy.special
import torch
from torch import nn

from twinspire.protos.features import (
    FIRST_KNOWN,
    HistoryFeature,
    IdFeature,
    Schema,
    Side,
    TextFeature,
)
from twinspire.train.config.towers import ClicksTower
from twinspire.train.models.clicks import (
    ClickTower,
    FeedbackEncoder,
    ItemCoordinates,
    QueryCoordinates,
)
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.heads import Head, ItemDotHead, LogisticHead
from twinspire.train.models.placement import to_device_of
from twinspire.train.models.sequence_encoders import IdEncoder
from twinspire.train.models.tower_factory import (
    Architecture,
    EncoderFactories,
    InitializationData,
    Towers,
    feature_encoder,
    shared_item_table,
)
from twinspire.train.models.towers import Bias, Residual

SCALE = 0.01  # of embeddings at the start
# Of the means at the start, as validation chooses them on `movielens-clicks`; training learns on from there.
ITEM_SMOOTHING, USER_SMOOTHING, USER_FACTOR = 5.0, 20.0, 6.0


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

    def initialize(self, towers: Towers, given: InitializationData) -> None:
        """Start as user and item means of the training labels.

        These are biases that the towers have: the log-odds of an item's shrunk share of positives, less those
        of all pairs, is the bias of its id. With histories of both kinds, an event's label less the share of
        its item is the bias of the item there (the formula is that of `train/evaluation/label_means.py`).
        """
        data, schema, (query, item) = given.data, given.schema, towers
        pairs = data.parts["train"]
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
                rows = given.prepared[1].arrays[name][:, 0].astype(np.int64)
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
