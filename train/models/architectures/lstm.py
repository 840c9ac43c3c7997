"""`[tower] kind = "lstm"`: LSTM-DSSM, the recurrent network of Palangi et al. 2016."""

import torch
from torch import nn

from protos.features import Schema, Side
from train.config.towers import LstmTower
from train.models.heads import CosineHead
from train.models.ordered_words import LstmEncoder
from train.models.tower_factory import (
    ARCHITECTURES,
    Architecture,
    Towers,
    feature_encoders,
    shared_item_table,
    text_and_id_factories,
)
from train.models.towers import Tower


@ARCHITECTURES.register(LstmTower)
class LstmArchitecture(Architecture[LstmTower]):
    """Two separate networks; the last state is the vector, without further layers.

    Features other than texts, which the paper does not have, are added to the last state. Ids and histories
    share one embedding table.
    """

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        ids = shared_item_table(schema, self.config.dimension, 0.01)
        return self._tower(schema, "query", ids), self._tower(schema, "item", ids)

    def _tower(self, schema: Schema, side: Side, ids: nn.Parameter) -> Tower:
        config, hashing = self.config, self.hashing()

        def text() -> nn.Module:
            width = config.word_dimension
            table = nn.Parameter(torch.randn(config.buckets, width) / width**0.5)
            return LstmEncoder(hashing, table, config.dimension)

        factories = text_and_id_factories(schema, text, ids)
        encoders = feature_encoders(schema, side, config.dimension, factories)
        return Tower(encoders, nn.Identity(), CosineHead())
