"""`[tower] kind = "comirec"`: a user's history as several vectors, one for each interest."""

from functools import partial

import numpy as np
import numpy.typing as npt
from torch import nn

from twinspire.protos.features import HistoryFeature, IdFeature, Schema
from twinspire.train.config.history_towers import ComirecTower
from twinspire.train.models.cold_start import fit_content_fallback
from twinspire.train.models.heads import InterestsHead
from twinspire.train.models.history_towers import content_fallback, inner_product_heads, text_factory
from twinspire.train.models.interests import InterestsEncoder
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.sequence_encoders import IdEncoder
from twinspire.train.models.tower_factory import (
    Architecture,
    EncoderFactories,
    Towers,
    feature_encoders,
    longest_window,
    shared_item_table,
)
from twinspire.train.models.towers import Bias, Residual, Tower


class ComirecArchitecture(Architecture[ComirecTower]):
    """The towers share the item embeddings; the item tower is that of `sequence`."""

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        config, width = self.config, self.config.dimension
        ids = shared_item_table(schema, width, 0.02)
        factories: EncoderFactories = {
            **text_factory(self.hashing(), config.buckets, width),
            IdFeature: partial(IdEncoder, ids),
            HistoryFeature: partial(self._interests, schema, ids),
        }
        query = feature_encoders(schema, "query", width, factories)
        item = feature_encoders(schema, "item", width, factories)
        named = next(name for name, spec in schema.item.items() if isinstance(spec, IdFeature))
        deep = Residual(width, config.item_hidden) if config.item_hidden else nn.Identity()
        query_head, item_head = inner_product_heads()
        return (
            Tower(query, Bias(width), InterestsHead(query_head, config.interests)),
            Tower(
                item,
                deep,
                item_head,
                fallback=(named, content_fallback(schema, config.dimension, config.buckets, self.hashing())),
            ),
        )

    def _interests(self, schema: Schema, ids: nn.Parameter) -> InterestsEncoder:
        config, positions = self.config, longest_window(schema)
        return InterestsEncoder(ids, config.interests, config.hidden, config.input_dropout, positions)

    @property
    def shares_windows(self) -> bool:
        """All places of a window are encoded at little more cost than the last."""
        return True

    def fit_unseen(self, towers: Towers, items: PreparedInputs, counts: npt.NDArray[np.int64]) -> bool:
        """Regress the learned vectors on the items' content."""
        return fit_content_fallback(
            towers[1], items, counts, self.config.newcomers_alpha, self.config.newcomers_strength
        )


ARCHITECTURE = ComirecArchitecture
