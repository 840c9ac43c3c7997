"""`[tower] kind = "shared"`: one tower for both sides, and a logistic layer over the vectors' product."""

import torch
from torch import nn

from protos.features import Schema
from train.config.towers import SharedTower
from train.models.encoders import HashedTextEncoder
from train.models.heads import ItemDotHead, LogisticHead
from train.models.tower_factory import (
    ARCHITECTURES,
    Architecture,
    Towers,
    feature_encoders,
    shared_item_table,
    tanh_layers,
    text_and_id_factories,
)
from train.models.towers import Bias, Tower


@ARCHITECTURES.register(SharedTower)
class SharedArchitecture(Architecture[SharedTower]):
    """Both sides use the same embedding tables and the same layers."""

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        config, hashing = self.config, self.hashing()
        widths = (*config.hidden, config.dimension)
        ids = shared_item_table(schema, widths[0], 0.05)
        texts = nn.Parameter(torch.randn(config.buckets, widths[0]) * 0.05)
        factories = text_and_id_factories(
            schema, lambda: HashedTextEncoder(hashing, texts, torch.ones(config.buckets)), ids
        )
        deep = nn.Sequential(Bias(widths[0]), nn.Tanh(), *tanh_layers(widths)[:-1])
        radius = torch.ones(())
        query_head = LogisticHead(radius, config.dimension)
        return (
            Tower(feature_encoders(schema, "query", widths[0], factories), deep, query_head),
            Tower(feature_encoders(schema, "item", widths[0], factories), deep, ItemDotHead(radius)),
        )
