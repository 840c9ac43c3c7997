"""`[tower] kind = "cdssm"`: the convolutional network of Shen et al. 2014."""

import torch
from torch import nn

from protos.features import Schema, Side
from train.config.towers import CdssmTower
from train.models.heads import CosineHead
from train.models.ordered_words import ConvolutionEncoder
from train.models.tower_factory import (
    ARCHITECTURES,
    Architecture,
    Towers,
    feature_encoders,
    shared_item_table,
    text_and_id_factories,
)
from train.models.towers import Tower


@ARCHITECTURES.register(CdssmTower)
class CdssmArchitecture(Architecture[CdssmTower]):
    """Shen et al. 2014, equations 2 to 4; two separate networks.

    Features other than texts, which the paper does not have, are added to the maximum. Ids and histories
    share one embedding table.
    """

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        ids = shared_item_table(schema, self.config.hidden, 0.01)
        return self._tower(schema, "query", ids), self._tower(schema, "item", ids)

    def _tower(self, schema: Schema, side: Side, ids: nn.Parameter) -> Tower:
        config, hashing = self.config, self.hashing()

        def text() -> nn.Module:
            table = nn.Parameter(torch.empty(config.buckets, config.window * config.hidden))
            nn.init.xavier_uniform_(table)
            return ConvolutionEncoder(hashing, table, config.window)

        factories = text_and_id_factories(schema, text, ids)
        encoders = feature_encoders(schema, side, config.hidden, factories)
        semantic = nn.Linear(config.hidden, config.dimension, bias=False)
        nn.init.xavier_uniform_(semantic.weight)
        return Tower(encoders, nn.Sequential(semantic, nn.Tanh()), CosineHead())
