"""`[tower] kind = "multi_view"`: multi-view DSSM, the network of Elkahky, Song and He 2015.

    query:  its features -> the network of `dssm`                    -> vector
    item:   its features -> first layers of all views -> that of its view
                         -> next layers of all views  -> that of its view  -> ... -> vector

The towers of all views are one module. A layer is computed for all views, and each item goes on with the
output of its own: the graph has as many nodes as that of one tower, in any batch, and no item reads what
another view has learned. Of the hashed tables, an item looks up the rows of its view alone.
"""

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protos.errors import DataError
from protos.features import UNKNOWN, Schema
from train.config.towers import MultiViewTower
from train.models.architectures.dssm import DssmArchitecture
from train.models.encoders import HashedTextEncoder, TextBags
from train.models.heads import CosineHead
from train.models.sequence_encoders import IdDropout, IdEncoder
from train.models.text_hashing import WordHashing
from train.models.tower_factory import (
    ARCHITECTURES,
    Architecture,
    InitializationData,
    Towers,
    feature_encoder,
    shared_item_table,
    text_and_id_factories,
)
from train.models.towers import Inputs, Tower


class ViewTexts(HashedTextEncoder):
    """The bag of a text by the table of its view.

    Args:
        hashing: code points -> rows of the table of one view.
        table: (V x buckets, H), the tables of all views, one below the other.
        buckets: rows of each.
    """

    def __init__(self, hashing: WordHashing, table: nn.Parameter, buckets: int) -> None:
        weights = torch.ones(len(table))
        weights[::buckets] = 0  # padding, of each view
        super().__init__(hashing, table, weights)
        self.buckets = buckets

    def of_views(self, text: Tensor | TextBags, view: Tensor) -> Tensor:
        """Code points (B, L) or bags of B texts -> (B, H).

        Args:
            view: int64 (B,), from 0.
        """
        begin = view.int() * self.buckets  # of the table of each view
        if not isinstance(text, TextBags):
            return self._of_rows(self.hashing(text) + begin[:, None])
        lengths = F.pad(text.offsets[1:], (0, 1), value=len(text.rows)) - text.offsets
        rows = text.rows + begin.repeat_interleave(lengths, output_size=len(text.rows))
        return self._of_bags(TextBags(rows, text.counts, text.offsets))


class ViewTower(Tower):
    """The item towers of all views, of which each item takes the one of its view.

    Args:
        view: name of the feature whose value is the view of an item.
        encoders: for each other feature an encoder of width V x H, whose part is that of one view; but
            `ViewTexts` and encoders of ids are of width H, because each row of their tables has one view.
        widths: H, those of the layers between, and D.
        count: V, the number of towers; the first is that of unknown views.
        dropout: replaces some views by "unknown" in training.
    """

    def __init__(
        self,
        view: str,
        encoders: Mapping[str, nn.Module],
        widths: tuple[int, ...],
        count: int,
        dropout: IdDropout,
    ) -> None:
        super().__init__(encoders, nn.Identity(), CosineHead(), prepare={view: dropout})
        self.view = view
        self.count = count
        self.bias = nn.Parameter(torch.zeros(count * widths[0]))  # of the first layer
        self.layers = nn.ModuleList(
            nn.Linear(inputs, count * outputs) for inputs, outputs in itertools.pairwise(widths)
        )
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            start_each(layer.weight, count)
            nn.init.zeros_(layer.bias)

    def encode_features(self, inputs: Inputs) -> Tensor:
        """(B, D): the features of each item through all layers of its view."""
        rows = inputs[self.view]
        assert isinstance(rows, Tensor)
        view = self.view_of(rows)
        of_all = self.bias.expand(rows.shape[0], -1)  # (B, V x H)
        own: list[Tensor] = []  # (B, H) each
        for name, encoder in self.encoders.items():
            given = inputs[name]
            if isinstance(encoder, ViewTexts):
                assert isinstance(given, Tensor | TextBags)
                own.append(encoder.of_views(given, view))
            elif isinstance(encoder, IdEncoder):
                own.append(encoder(given))
            else:
                of_all = of_all + encoder(given)
        hidden = torch.tanh(sum(own, start=self._of_view(of_all, view)))
        for layer in self.layers:
            hidden = torch.tanh(self._of_view(layer(hidden), view))
        return hidden

    def view_of(self, rows: Tensor) -> Tensor:
        """Int64 (B,), the tower of each item, from rows of the vocabulary (B, C): one at most is no padding.

        0 where the view is absent, unknown, or has no tower.
        """
        view = (rows.amax(dim=1) - UNKNOWN).clamp(min=0)
        return view.masked_fill(view >= self.count, 0)

    def _of_view(self, of_all: Tensor, view: Tensor) -> Tensor:
        """(B, H): of what was computed for all views, (B, V x H), that of each item's view."""
        by_view = of_all.reshape(of_all.shape[0], self.count, -1)  # (B, V, H)
        index = view[:, None, None].expand(-1, 1, by_view.shape[2])
        return by_view.gather(1, index).squeeze(1)


def start_each(stacked: Tensor, count: int) -> None:
    """Xavier's uniform initialization of `count` matrices that lie one below the other."""
    with torch.no_grad():
        for matrix in stacked.chunk(count):
            nn.init.xavier_uniform_(matrix)


@ARCHITECTURES.register(MultiViewTower)
class MultiViewArchitecture(Architecture[MultiViewTower]):
    """Elkahky et al. 2015: one view of the users, several of the items, in one space.

    Ids and histories, which the paper does not have, share one embedding table: an item has one id and one
    view. A tower reads the item's features other than its view.
    """

    def build(self, schema: Schema) -> Towers:
        """Query tower and item tower."""
        config = self.config
        widths = (*config.hidden, config.dimension)
        ids = shared_item_table(schema, widths[0], 0.01)
        query = DssmArchitecture(config.query_section()).tower(schema, "query", ids)
        return query, self._item_tower(schema, ids, widths)

    def _item_tower(self, schema: Schema, ids: nn.Parameter, widths: tuple[int, ...]) -> ViewTower:
        config, hashing = self.config, self.hashing()
        known = len(views_of(schema, config.view))
        count = 1 + min(known, config.max_views)  # the first is that of unknown views

        def text() -> nn.Module:
            table = nn.Parameter(torch.empty(count * config.buckets, widths[0]))
            start_each(table, count)
            return ViewTexts(hashing, table, config.buckets)

        factories = text_and_id_factories(schema, text, ids)
        encoders = {
            name: feature_encoder(schema, "item", name, count * widths[0], factories)
            for name in schema.item
            if name != config.view
        }
        return ViewTower(config.view, encoders, widths, count, IdDropout(config.view_dropout, known))

    def initialize(self, towers: Towers, given: InitializationData) -> None:
        """Check that there are several views, and report how many items have a tower of their own view.

        Raises:
            DataError: there are fewer than two.
        """
        name, item = self.config.view, towers[1]
        views = views_of(given.schema, name)
        if len(views) < 2:
            raise DataError(
                f"item.{name}: expected at least two views among the items of training pairs, each of at "
                f"least min_count of them, got {', '.join(map(repr, views)) or 'none'}; "
                '[tower] kind = "dssm" has one tower for all items'
            )
        assert isinstance(item, ViewTower)
        own = item.view_of(torch.from_numpy(given.prepared[1].arrays[name])) > 0
        given.report(
            f"item.{name}: {item.count - 1} of {len(views)} views have a tower of their own, with "
            f"{float(own.float().mean()):.1%} of the items; the others take that of unknown views"
        )


def views_of(schema: Schema, name: str) -> tuple[str, ...]:
    """The known views, the most frequent first."""
    return schema.vocabularies[f"item.{name}"]
