"""`[tower] kind = "comirec"`: a user's history as several vectors, one for each interest."""

from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twinspire.protos.features import HistoryFeature, IdFeature, Schema
from twinspire.train.config.history_towers import ComirecTower
from twinspire.train.models.cold_start import fit_content_fallback
from twinspire.train.models.encoders import touched
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.sequence_encoders import History, IdEncoder, Windows, dropout
from twinspire.train.models.tower_factory import (
    Architecture,
    EncoderFactories,
    Towers,
    content_fallback,
    feature_encoders,
    inner_product_heads,
    longest_window,
    shared_item_table,
    text_factory,
)
from twinspire.train.models.towers import Bias, InterestsHead, Residual, Tower


class InterestsEncoder(nn.Module):
    """K vectors of a history, each a weighted mean of its items (Cen et al. 2020, equation 3).

    The weight of item j in the mean of interest k is the softmax over all items of
    w_k tanh(W e_j) + b_kn, with n items after j; the paper adds an embedding of the position to e_j instead,
    which depends on where the window of a history begins.

    Args:
        table: (V, H), shared with the item tower; row 0 is the empty history.
        interests: K.
        hidden: rows of W.
        input_dropout: on the embedded items.
        positions: number of positions of the longest history or window.
    """

    def __init__(
        self, table: nn.Parameter, interests: int, hidden: int, input_dropout: float, positions: int
    ) -> None:
        super().__init__()
        self.table = table
        self.input_dropout = input_dropout
        self.inner = nn.Linear(table.shape[1], hidden, bias=False)
        self.outer = nn.Linear(hidden, interests, bias=False)
        self.distance = nn.Parameter(torch.zeros(positions, interests))

    def forward(self, history: History) -> Tensor:
        """Rows (B, L) or windows of B records -> (B, K, H)."""
        if isinstance(history, Windows):
            return history.pick(self._pool(history.rows, history.rows.shape[1]))
        return self._pool(history, 1)[:, 0]

    def _pool(self, rows: Tensor, count: int) -> Tensor:
        """(B, count, K, H): for each of the last `count` places the K vectors of the history up to it."""
        table, used = touched(self.table, rows)
        items = dropout(F.embedding(used, table), self.input_dropout, self.training)  # (B, L, H)
        place = torch.arange(rows.shape[1], device=rows.device)
        offset = (place[:, None] - place)[-count:]  # (Q, L), above 0 for earlier places
        # A place weighs itself even where it is padding, else the softmax has no term.
        masked = (offset < 0) | (rows == 0)[:, None] & (offset > 0)  # (B, Q, L)
        bias = F.embedding(offset.clamp(min=0), self.distance).permute(2, 0, 1)  # (K, Q, L)
        logits = self.outer(torch.tanh(self.inner(items))).transpose(1, 2)[:, :, None]  # (B, K, 1, L)
        weights = (logits + bias).masked_fill(masked[:, None], float("-inf")).softmax(dim=-1)
        pooled: Tensor = weights.flatten(1, 2) @ items  # (B, K * Q, H)
        return pooled.view(len(rows), len(bias), count, -1).transpose(1, 2)


class ComirecArchitecture(Architecture[ComirecTower]):
    """The towers share the item embeddings; the item tower is that of `sequence`."""

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        config, width = self.config, self.config.dimension
        ids = shared_item_table(schema, width, 0.02)
        factories: EncoderFactories = {
            **text_factory(self.hashing(), config.buckets, width),
            IdFeature: partial(IdEncoder, ids),
            HistoryFeature: lambda: InterestsEncoder(
                ids, config.interests, config.hidden, config.input_dropout, longest_window(schema)
            ),
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
                fallback=(named, content_fallback(schema, width, config.buckets, self.hashing())),
            ),
        )

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
