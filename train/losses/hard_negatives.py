"""Hard negatives: items near to a query that are none of its positives, mined once an epoch."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twinspire.train.data.training_data import Pairs, Positives, Rows
from twinspire.train.models.placement import to_device_of
from twinspire.train.models.towers import largest_products

SeenMask = Callable[[Rows, Rows], npt.NDArray[np.bool_] | None]
_BLOCK = 1024  # pairs whose scores are in memory at a time
_PARTS = 8  # of the items, in a random one of which a block of pairs is mined
_FEWEST = 4  # items for each negative that are nearest in such a part


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
) -> Rows:
    """Hard negatives of each pair (Xiong et al. 2021, "ANCE", section 4).

    They are drawn uniformly from the `depth` nearest items of training pairs, without the query's positives
    and the items that the query has seen. Where there are many pairs, each block of them gets another random
    part of the items, and negatives are drawn from as small a part of `depth`: the nearest 5 of an eighth are
    about as near as the nearest 40 of all, and found in an eighth of the time.

    Args:
        queries: (Q, D), vectors of all queries; or (Q, K * D), whose largest product counts.
        items: (N, D), vectors of all items, on the same device.
        depth: number of nearest items that they are drawn from.
        seen_mask: query rows (B,) and item rows (M,) -> bool (B, M), true where the query has seen the
            item; None if no query has.
        share: the rank of a process and their number. It mines for every `number`-th block of pairs; the
            rows of the others are 0, so that the sum over all processes is what one process mines.

    Returns:
        int64 (P, per_pair) item rows; fewer columns where there are fewer items. A query with too few
        negatives gets some of its positives, which the loss masks.
    """
    generator = np.random.default_rng(seed)
    all_drawable = np.unique(pairs.item)
    depth = min(depth, len(all_drawable))
    per_pair = min(per_pair, depth)
    parts = max(1, min(_PARTS, depth // (_FEWEST * per_pair), len(pairs) // _BLOCK))
    depth //= parts
    mined = np.zeros((len(pairs), per_pair), np.int64)
    rank, processes = share
    for at in range(0, len(pairs), _BLOCK):
        rows = pairs.query[at : at + _BLOCK]
        drawable = np.sort(generator.choice(all_drawable, len(all_drawable) // parts, replace=False))
        random = generator.random((len(rows), depth))  # both also for the blocks of other processes
        if at // _BLOCK % processes != rank:
            continue
        vectors = items[to_device_of(drawable, items)]
        scores = largest_products(queries[to_device_of(rows, queries)], vectors)
        place, item = positives.of_queries(rows)
        column = np.searchsorted(drawable, item)
        is_there = drawable[np.minimum(column, len(drawable) - 1)] == item
        place, column = place[is_there], column[is_there]
        scores[to_device_of(place, scores), to_device_of(column, scores)] = -torch.inf
        seen = seen_mask(rows, drawable)
        if seen is not None:
            scores[to_device_of(seen, scores)] = -torch.inf
        best = torch.topk(scores, depth, dim=1)
        nearest, masked = best.indices.cpu().numpy(), best.values.isneginf().cpu().numpy()
        picks = (random + masked).argpartition(per_pair - 1, axis=1)
        mined[at : at + _BLOCK] = drawable[np.take_along_axis(nearest, picks[:, :per_pair], 1)]
    return mined
