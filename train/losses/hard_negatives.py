"""Hard negatives: items that the model ranks high for a query although they are not among its positives."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data.training_data import Pairs, Positives
from train.models.interests import largest_products
from train.models.placement import to_device_of

Rows = npt.NDArray[np.int64]
SeenMask = Callable[[Rows, Rows], npt.NDArray[np.bool_] | None]
_BLOCK = 1024  # pairs whose scores are in memory at a time


class Mined(NamedTuple):
    """Hard negatives.

    Args:
        items: int64 (P, per_pair) item rows.
        dropped: share of the nearest items that scored too high, 0 to 1; of the pairs of this process.
    """

    items: Rows
    dropped: float


def mine_hard_negatives(
    queries: Tensor,
    items: Tensor,
    pairs: Pairs,
    positives: Positives,
    per_pair: int,
    depth: int,
    seed: tuple[int, int],
    seen_mask: SeenMask = lambda queries, items: None,
    share: tuple[int, int] = (0, 1),
    drop_above: float = 0.0,
) -> Mined:
    """Hard negatives of each pair (Xiong et al. 2021, "ANCE", section 4).

    They are drawn uniformly from the `depth` nearest items of training pairs, without the query's positives
    and the items that the query has seen. An item that scores nearly as high as the pair's own, or higher,
    may be one that answers the query, too, although no pair says so; with `drop_above` it is passed over for
    the next nearest (de Souza P. Moreira et al. 2024, "NV-Retriever", section 4: TopK-PercPos).

    Args:
        queries: (Q, D), vectors of all queries; or (Q, K * D), whose largest product counts.
        items: (N, D), vectors of all items, on the same device.
        depth: number of nearest items that they are drawn from.
        seen_mask: query rows (B,) and item rows (M,) -> bool (B, M), true where the query has seen the
            item; None if no query has.
        share: the rank of a process and their number. It mines for every `number`-th block of pairs; the
            rows of the others are 0, so that the sum over all processes is what one process mines.
        drop_above: share of the score of the pair's own item; items that score higher are dropped. 0 drops
            none.

    Returns:
        The negatives; fewer columns where there are fewer items. A query with too few negatives gets some of
        its positives, which the loss masks, or some of those that were dropped.
    """
    generator = np.random.default_rng(seed)
    drawable = np.unique(pairs.item)
    vectors = items[to_device_of(drawable, items)]
    depth = min(depth, len(drawable))
    per_pair = min(per_pair, depth)
    mined = np.zeros((len(pairs), per_pair), np.int64)
    rank, processes = share
    near = dropped = 0
    for at in range(0, len(pairs), _BLOCK):
        rows = pairs.query[at : at + _BLOCK]
        random = generator.random((len(rows), depth))  # also of the blocks of other processes
        if at // _BLOCK % processes != rank:
            continue
        scores = largest_products(queries[to_device_of(rows, queries)], vectors)
        column = np.searchsorted(drawable, pairs.item[at : at + _BLOCK])
        own = scores.gather(1, to_device_of(column, scores)[:, None])
        place, item = positives.of_queries(rows)
        column = np.searchsorted(drawable, item)
        scores[to_device_of(place, scores), to_device_of(column, scores)] = -torch.inf
        seen = seen_mask(rows, drawable)
        if seen is not None:
            scores[to_device_of(seen, scores)] = -torch.inf
        best = torch.topk(scores, depth, dim=1)
        if drop_above:
            bound = own - (1 - drop_above) * own.abs()
            near += int(best.values.isfinite().sum())
            dropped += int((best.values > bound).sum())
            best = torch.topk(scores.masked_fill_(scores > bound, -torch.inf), depth, dim=1)
        nearest, masked = best.indices.cpu().numpy(), best.values.isneginf().cpu().numpy()
        picks = (random + masked).argpartition(per_pair - 1, axis=1)
        mined[at : at + _BLOCK] = drawable[np.take_along_axis(nearest, picks[:, :per_pair], 1)]
    return Mined(mined, dropped / near if near else 0.0)
