"""`[tower] kind = "sequence"`: a user's history as the query, with EASE's factors and learned coordinates."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from twinspire.protos.features import HistoryFeature, IdFeature, Schema, TimeFeature
from twinspire.protos.inputs.events import TIMES
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.cold_start import fit_content_fallback
from twinspire.train.models.initialization import initialize_ease
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.recent_popularity import PeriodEncoder
from twinspire.train.models.sequence_encoders import (
    AttentionEncoder,
    HistoryDropout,
    IdEncoder,
    PoolingEncoder,
)
from twinspire.train.models.tower_factory import (
    Architecture,
    EncoderFactories,
    Prepared,
    Towers,
    content_fallback,
    feature_encoder,
    feature_encoders,
    inner_product_heads,
    longest_window,
    shared_item_table,
    text_factory,
)
from twinspire.train.models.towers import Bias, Mixture, Residual, Tower


class SequenceArchitecture(Architecture[SequenceTower]):
    """The towers share the item embeddings. The query's bias lets items be popular for every history."""

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        config, width = self.config, self.config.dimension
        ids = shared_item_table(schema, width, 0.02)
        factories: EncoderFactories = {
            **text_factory(self.hashing(), config.buckets, width),
            IdFeature: partial(IdEncoder, ids),
            HistoryFeature: partial(self._history_encoder, schema, ids),
        }
        histories, named = _of_kind(schema.query, HistoryFeature), _of_kind(schema.item, IdFeature)
        query_factors, item_factors = self._factors(schema, histories, named)
        history_dropout = {name: HistoryDropout(config.history_dropout) for name in histories}
        query_deep = nn.Sequential(nn.Dropout(config.query_dropout), Bias(width))
        item_deep = Residual(width, config.item_hidden) if config.item_hidden else nn.Identity()
        fallback = None
        if named:
            fallback = named[0], content_fallback(schema, width, config.buckets, self.hashing())
        query_head, item_head = inner_product_heads()
        query = {
            name: feature_encoder(schema, "query", name, width, factories)
            for name, spec in schema.query.items()
            if not isinstance(spec, TimeFeature)  # the attention and recent popularity read it
        }
        item = feature_encoders(schema, "item", width, factories)
        query_mixture, item_mixture = self._mixtures(schema, histories, named)
        query_recent, item_recent = self._recent_popularity(schema, named)
        return (
            Tower(
                query,
                query_deep,
                query_head,
                factors=query_factors,
                prepare=history_dropout,
                mixture=query_mixture,
                recent=query_recent,
            ),
            Tower(
                item,
                item_deep,
                item_head,
                factors=item_factors,
                fallback=fallback,
                mixture=item_mixture,
                recent=item_recent,
            ),
        )

    def _mixtures(
        self, schema: Schema, histories: list[str], named: list[str]
    ) -> tuple[Mixture | None, Mixture | None]:
        """The factors of the linear model, which are set after training."""
        width = self.config.linear
        if not (width and histories and named):
            return None, None
        left, right = (shared_item_table(schema, width, 0.0) for _ in range(2))
        pooled = PoolingEncoder(left, longest_window(schema), False)
        return Mixture(histories[0], pooled), Mixture(named[0], IdEncoder(right))

    def _recent_popularity(self, schema: Schema, named: list[str]) -> tuple[Mixture | None, Mixture | None]:
        """The factors of recent popularity, which are set after training."""
        width, times = self.config.recent_popularity, _of_kind(schema.query, TimeFeature)
        if not (width and times and named):
            return None, None
        items = IdEncoder(shared_item_table(schema, width, 0.0))
        return Mixture(times[0], PeriodEncoder(width)), Mixture(named[0], items)

    def _factors(
        self, schema: Schema, histories: list[str], named: list[str]
    ) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        """EASE's left factors of the histories and right factors of the ids; they are not trained."""
        config = self.config
        if not config.latent:
            return {}, {}
        left, right = (shared_item_table(schema, config.latent, 0.0) for _ in range(2))
        for table in (left, right):
            table.requires_grad_(False)
        pooled = PoolingEncoder(
            left, longest_window(schema), False, scale=config.latent_scale, decay=config.decay
        )
        return dict.fromkeys(histories, pooled), {name: IdEncoder(right) for name in named}

    def _history_encoder(self, schema: Schema, ids: nn.Parameter) -> nn.Module:
        config, positions = self.config, longest_window(schema)
        if config.history == "attention":
            return AttentionEncoder(
                ids,
                config.layers,
                config.heads,
                config.dropout,
                config.input_dropout,
                positions,
                _beside(schema) if config.ages else (),
                config.age_dropout,
            )
        own = shared_item_table(schema, config.dimension, 0.0)
        return PoolingEncoder(own, positions, False, decay=config.decay)

    @property
    def shares_windows(self) -> bool:
        """Attention encodes all positions of a window at little more cost than the last."""
        return self.config.history == "attention"

    def initialize(
        self, towers: Towers, schema: Schema, data: TrainingData, prepared: Prepared, seed: int
    ) -> None:
        """Start as EASE."""
        if self.config.latent:
            initialize_ease(towers, data, schema, self.config.regularisation)

    def fit_unseen(self, towers: Towers, items: PreparedInputs, counts: npt.NDArray[np.int64]) -> bool:
        """Regress the learned vectors on the items' content.

        Higher ages than those of training count as the highest of these.
        """
        for module in towers[0].modules():
            if isinstance(module, AttentionEncoder):
                module.extend_ages()
        has_fallback = fit_content_fallback(
            towers[1], items, counts, self.config.newcomers_alpha, self.config.newcomers_strength
        )
        return has_fallback or self.config.ages


ARCHITECTURE = SequenceArchitecture


def _beside(schema: Schema) -> tuple[str, str]:
    """Names of the arrays that tell the ages of a history's events: the times of these, and of the query."""
    (history,) = (name for name, spec in schema.query.items() if spec.kind == "history")
    (time,) = _of_kind(schema.query, TimeFeature)
    return history + TIMES, time


def _of_kind(features: Mapping[str, Any], kind: type) -> list[str]:
    return [name for name, spec in features.items() if isinstance(spec, kind)]
