"""The mimic loss: augmented vectors of one side imitate the vectors of the other.

The adaptive-mimic mechanism of DAT (Yu et al. 2021, "A Dual Augmented Two-tower Model for Online Large-scale
Recommendation"). With a_u and a_v the augmented vectors of a pair's query and item, p_u and p_v the vectors
of the towers, through which no gradient goes, and y = 1 for a positive pair, else 0:

    y |a_u - p_v|^2 + y |a_v - p_u|^2

Its category alignment loss is left out. Here p_u is [u, b_u], after dropout, and p_v is [v, b_v], in the
units in which their products enter the logit; the constant coordinates of `train/models/clicks.py` say
nothing of a record.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from train.models.clicks import AugmentedVector, ClickTower
from train.models.heads import ItemDotHead, QueryDotHead
from train.models.tower_factory import Towers
from train.models.towers import Tower


@dataclass(frozen=True)
class MimicLoss:
    """The mimic loss of one training step.

    Args:
        augmented: side, 0 for queries and 1 for items -> (B, W) or (N, W), of the sides that have any.
        imitated: (B, W), [u, b_u] of the queries, and (N, W), [v, b_v] of the items, without gradients.
        weight: of the loss.
    """

    augmented: Mapping[int, Tensor]
    imitated: tuple[Tensor, Tensor]
    weight: float

    def of_pairs(self, query: Tensor, item: Tensor, positive: Tensor) -> Tensor:
        """(P,): the weighted loss of each pair, 0 where it is not positive.

        Args:
            query: int64 (P,), rows of the queries' vectors.
            item: int64 (P,), rows of the items' vectors.
            positive: bool (P,).
        """
        rows = (query, item)
        distances = [
            (own[rows[side]] - self.imitated[1 - side][rows[1 - side]]).square().sum(dim=1)
            for side, own in self.augmented.items()
        ]
        return self.weight * torch.stack(distances).sum(dim=0) * positive


def split_augmented(
    towers: Towers, queries: Tensor | None, items: Tensor
) -> tuple[Tensor | None, Tensor, MimicLoss | None]:
    """Split off the augmented vectors that stand beside the vectors of a training step.

    Args:
        towers: query tower and item tower.
        queries: what the query tower gave in training for B queries; None for none.
        items: what the item tower gave in training for N items.

    Returns:
        The vectors of queries and items, and the mimic loss; None if there is nothing to imitate.
    """
    items, of_items = _split(towers[1], items)
    if queries is None:
        return None, items, None
    queries, of_queries = _split(towers[0], queries)
    augmented = {side: each for side, each in enumerate((of_queries, of_items)) if each is not None}
    if not augmented:
        return queries, items, None
    imitated = _imitated(towers, queries.detach(), items.detach())
    layers = (_layer(tower) for tower in towers)
    weight = next(layer.weight for layer in layers if layer is not None)
    return queries, items, MimicLoss(augmented, imitated, weight)


def _layer(tower: Tower) -> AugmentedVector | None:
    return tower.augmented if isinstance(tower, ClickTower) else None


def _split(tower: Tower, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """The vectors and the augmented vectors of one side."""
    layer = _layer(tower)
    return (rows, None) if layer is None else (rows[:, : -layer.width], rows[:, -layer.width :])


def _imitated(towers: Towers, queries: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """[u, b_u] of each query and [v, b_v] of each item, from the vectors that the heads have scaled."""
    query_head, item_head = towers[0].head, towers[1].head
    assert isinstance(query_head, QueryDotHead)
    assert isinstance(item_head, ItemDotHead)
    left = queries[:, :-1] / query_head.radius  # [u, b_u, 1]
    right = items[:, :-1] * item_head.radius  # [v, 1, b_v]
    return left[:, :-1], torch.cat([right[:, :-2], right[:, -1:]], dim=1)
