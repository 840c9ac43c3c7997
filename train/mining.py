"""Hard negatives: items that the model itself ranks high for a query, though they are no answers to it."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.problem import Pairs, Positives

Rows = npt.NDArray[np.int64]
Seen = Callable[[Rows, Rows], npt.NDArray[np.bool_] | None]
_BLOCK = 1024


def mine(
    queries: Tensor,
    items: Tensor,
    pairs: Pairs,
    positives: Positives,
    per_pair: int,
    depth: int,
    seed: tuple[int, int],
    seen: Seen = lambda queries, items: None,
) -> Rows:
    """Hard negatives: for each pair some of the items that the model itself ranks high.

    Drawn evenly from the `depth` nearest items of training pairs (Xiong et al. 2021, "ANCE", section
    4), known positives and what a query has seen left out.

    Args:
        queries: (Q, D) vectors of all queries.
        items: (N, D) vectors of all items.
        seen: marks (B, M) of which of M items each of some queries has seen; None if none has any.

    Returns:
        int64 (P, per_pair) item rows; fewer columns where there are fewer items. A query that is left with
        too few items gets others, too, which its loss masks.
    """
    generator = np.random.default_rng(seed)
    drawable = np.unique(pairs.item)
    vectors = items[drawable]
    depth = min(depth, len(drawable))
    per_pair = min(per_pair, depth)
    mined = np.empty((len(pairs), per_pair), np.int64)
    for at in range(0, len(pairs), _BLOCK):
        rows = pairs.query[at : at + _BLOCK]
        scores = queries[rows] @ vectors.T
        place, item = positives.of_queries(rows)
        column = np.searchsorted(drawable, item)
        scores[torch.from_numpy(place), torch.from_numpy(column)] = -torch.inf
        marks = seen(rows, drawable)
        if marks is not None:
            scores[torch.from_numpy(marks)] = -torch.inf
        best = torch.topk(scores, depth, dim=1)
        nearest, positive = best.indices.numpy(), best.values.isneginf().numpy()
        picks = (generator.random(nearest.shape) + positive).argpartition(per_pair - 1, axis=1)
        mined[at : at + _BLOCK] = drawable[np.take_along_axis(nearest, picks[:, :per_pair], 1)]
    return mined
