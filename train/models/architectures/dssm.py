"""`[tower] kind = "dssm"`: the network of Huang et al. 2013."""

import torch
from torch import nn

from twinspire.protos.features import Schema, Side
from twinspire.train.config.towers import DssmTower
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.tower_factory import (
    Architecture,
    Towers,
    feature_encoders,
    shared_item_table,
    tanh_layers,
    text_and_id_factories,
)
from twinspire.train.models.towers import Bias, CosineHead, Tower


class DssmArchitecture(Architecture[DssmTower]):
    """Huang et al. 2013, equations 3 to 5; two separate networks with the paper's uniform initialization.

    Ids and histories, which the paper does not have, share one embedding table.
    """

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        ids = shared_item_table(schema, self.config.hidden[0], 0.01)
        return self._tower(schema, "query", ids), self._tower(schema, "item", ids)

    def _tower(self, schema: Schema, side: Side, ids: nn.Parameter) -> Tower:
        config, hashing = self.config, self.hashing()
        widths = (*config.hidden, config.dimension)

        def text() -> nn.Module:
            table = nn.Parameter(torch.empty(config.buckets, widths[0]))
            nn.init.xavier_uniform_(table)
            return HashedTextEncoder(hashing, table, torch.ones(config.buckets))

        factories = text_and_id_factories(schema, text, ids)
        encoders = feature_encoders(schema, side, widths[0], factories)
        deep = nn.Sequential(Bias(widths[0]), nn.Tanh(), *tanh_layers(widths))
        return Tower(encoders, deep, CosineHead())


ARCHITECTURE = DssmArchitecture
