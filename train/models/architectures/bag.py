"""`[tower] kind = "bag"`: hashed words and character n-grams with learned weights."""

import torch
from torch import nn

from twinspire.protos.features import Schema, Side
from twinspire.train.config.towers import BagTower
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.initialization import initialize_tfidf
from twinspire.train.models.tower_factory import (
    Architecture,
    Prepared,
    Towers,
    feature_encoders,
    shared_item_table,
    text_and_id_factories,
)
from twinspire.train.models.towers import CosineHead, Residual, Tower


class BagArchitecture(Architecture[BagTower]):
    """Both towers share the hashed table; each has its own weights and its own residual layer."""

    ranks_untrained = True  # as TF-IDF

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        config = self.config
        table = nn.Parameter(torch.randn(config.buckets, config.dimension).div_(config.dimension**0.5))
        ids = shared_item_table(schema, config.dimension, 0.01)
        return self._tower(schema, "query", table, ids), self._tower(schema, "item", table, ids)

    def _tower(self, schema: Schema, side: Side, table: nn.Parameter, ids: nn.Parameter) -> Tower:
        config, hashing = self.config, self.hashing()
        hidden = config.item_hidden if side == "item" else config.query_hidden
        is_only_part = len(getattr(schema, side)) == 1 and not hidden  # the head normalises it

        def text() -> nn.Module:
            weights = nn.Parameter(torch.ones(config.buckets))
            return HashedTextEncoder(hashing, table, weights, side == "item", normalise=not is_only_part)

        factories = text_and_id_factories(schema, text, ids)
        deep = Residual(config.dimension, hidden) if hidden else nn.Identity()
        return Tower(feature_encoders(schema, side, config.dimension, factories), deep, CosineHead())

    def initialize(
        self, towers: Towers, schema: Schema, data: TrainingData, prepared: Prepared, seed: int
    ) -> None:
        """Start as projected TF-IDF."""
        initialize_tfidf(towers, prepared[1], self.config.latent, seed)


ARCHITECTURE = BagArchitecture
