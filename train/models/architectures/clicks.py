"""`[tower] kind = "clicks"`: a factorisation machine with one vector for each side, for labelled pairs."""

import torch
from torch import nn

from twinspire.protos.features import (
    FIRST_KNOWN,
    CategoryFeature,
    HistoryFeature,
    IdFeature,
    Schema,
    Side,
    TextFeature,
)
from twinspire.train.config.towers import ClicksTower
from twinspire.train.models.clicks import (
    AdditivePart,
    ClickTower,
    FeedbackEncoder,
    ItemCoordinates,
    QueryCoordinates,
)
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.heads import Head, ItemDotHead, LogisticHead
from twinspire.train.models.sequence_encoders import IdEncoder
from twinspire.train.models.tower_factory import (
    ARCHITECTURES,
    Architecture,
    EncoderFactories,
    InitializationData,
    Towers,
    feature_encoder,
    shared_item_table,
)
from twinspire.train.models.towers import Bias, Residual

SCALE = 0.01  # of embeddings at the start


@ARCHITECTURES.register(ClicksTower)
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
            self._additive(schema, side),
        )

    def _additive(self, schema: Schema, side: Side) -> AdditivePart | None:
        """Tables of all categories and ids, and of histories if there are those of both kinds."""
        features = getattr(schema, side)
        rows = {
            name: FIRST_KNOWN + len(schema.vocabularies[spec.vocabulary_key(side, name)])
            for name, spec in features.items()
            if isinstance(spec, CategoryFeature | IdFeature | HistoryFeature)
        }
        histories = {name: rows[name] for name in rows if isinstance(features[name], HistoryFeature)}
        kinds = {features[name].kind for name in histories}
        histories = histories if len(kinds) == 2 else {}
        sizes = {name: rows[name] for name in rows if not isinstance(features[name], HistoryFeature)}
        if not self.config.additive:
            return None
        width = self.config.dimension + 2
        return AdditivePart(sizes, histories, width, width - (2 if side == "query" else 1))

    def initialize(self, towers: Towers, given: InitializationData) -> None:
        """Start with the share of positives in training."""
        pairs = given.data.parts["train"]
        head = towers[0].head
        if pairs.label is not None and isinstance(head, LogisticHead):
            share = torch.tensor(float(pairs.is_positive.mean()))
            with torch.no_grad():
                head.bias.copy_(torch.logit(share.clamp(0.001, 0.999)))


def _item_table(schema: Schema, width: int) -> nn.Parameter:
    """Random embeddings of the known items; an unknown item has none, so its content decides."""
    table = shared_item_table(schema, width, SCALE)
    with torch.no_grad():
        table[:FIRST_KNOWN] = 0
    return table
