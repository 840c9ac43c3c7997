"""Which pairs, and which other items, make a step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.problem import Pairs, Positives

Rows = npt.NDArray[np.int64]
_BLOCK = 1024


@dataclass(frozen=True)
class Batch:
    """One step's queries and candidate items.

    Args:
        queries: int64 (B,), query rows.
        items: int64 (N,), distinct item rows, N <= B (1 + hard negatives).
        positive: int64 (B,), the column of each query's own item.
        same: bool (B, N), true where the item is a known positive of the query.
        weight: float32 (B,).
    """

    queries: Rows
    items: Rows
    positive: Tensor
    same: Tensor
    weight: Tensor


def batches(
    pairs: Pairs, positives: Positives, hard: Rows | None, size: int, seed: tuple[int, int]
) -> Iterator[Batch]:
    """All pairs in a random order, `size` at a time; a last batch of fewer than two is left out.

    Args:
        hard: (P, H) item rows, the hard negatives of each pair, or None.
        seed: of the order; the same seed gives the same batches.
    """
    order = np.random.default_rng(seed).permutation(len(pairs))
    for at in range(0, len(order), size):
        chosen = order[at : at + size]
        if len(chosen) < 2:
            return
        own = pairs.item[chosen]
        extra = own[:0] if hard is None else hard[chosen].ravel()
        items = np.unique(np.concatenate([own, extra]))
        queries = pairs.query[chosen]
        yield Batch(
            queries,
            items,
            torch.from_numpy(np.searchsorted(items, own)),
            torch.from_numpy(_known(positives, queries, items)),
            torch.from_numpy(pairs.weight[chosen]),
        )


def batch_count(pairs: int, size: int) -> int:
    """How many batches `batches` gives."""
    return pairs // size + (pairs % size >= 2)


def _known(positives: Positives, queries: Rows, items: Rows) -> npt.NDArray[np.bool_]:
    """Bool (B, N): is the item a positive of the query, by any pair?"""
    place, item = positives.of_queries(queries)
    column = np.searchsorted(items, item)
    present = (column < len(items)) & (items[np.minimum(column, len(items) - 1)] == item)
    known = np.zeros((len(queries), len(items)), bool)
    known[place[present], column[present]] = True
    return known


def mine(
    queries: Tensor,
    items: Tensor,
    pairs: Pairs,
    positives: Positives,
    per_pair: int,
    depth: int,
    seed: tuple[int, int],
) -> Rows:
    """Hard negatives: for each pair some of the items that the model itself ranks high.

    Drawn evenly from the `depth` nearest items of training pairs (Xiong et al. 2021, "ANCE", section
    4), known positives left out.

    Args:
        queries: (Q, D) vectors of all queries.
        items: (N, D) vectors of all items.

    Returns:
        int64 (P, per_pair) item rows; fewer columns where there are fewer items. A query that too few items
        are no positives of gets positives, which its loss masks.
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
        best = torch.topk(scores, depth, dim=1)
        nearest, positive = best.indices.numpy(), best.values.isneginf().numpy()
        picks = (generator.random(nearest.shape) + positive).argpartition(per_pair - 1, axis=1)
        mined[at : at + _BLOCK] = drawable[np.take_along_axis(nearest, picks[:, :per_pair], 1)]
    return mined
