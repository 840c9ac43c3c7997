"""Encoding for evaluation, and exact search over all items."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.evaluation.metrics import CUTOFFS
from train.models.interests import largest_products
from train.models.placement import Place, as_given, beside
from train.models.prepared_inputs import PreparedInputs
from train.models.towers import Inputs, Tower

Rows = npt.NDArray[np.int64]
BLOCK = 512  # records encoded, and queries searched, at a time


def encode(
    tower: Tower, corpus: PreparedInputs, rows: Rows | None = None, place: Place[Inputs] = as_given
) -> Tensor:
    """Vectors (len(rows), D) of records, without gradients, on the device of the tower.

    Args:
        rows: of the records; None encodes all.
        place: moves inputs to the device of the tower.
    """
    index = np.arange(len(corpus)) if rows is None else rows
    was_training = tower.training
    tower.eval()
    with torch.inference_mode():
        blocks = [tower(place(corpus.batch(index[at : at + BLOCK]))) for at in range(0, len(index), BLOCK)]
    tower.train(was_training)
    return torch.cat(blocks).clone()


def search(queries: Tensor, items: Tensor, k: int = max(CUTOFFS), seen: Sequence[Rows] | None = None) -> Rows:
    """Exact search by inner product; of a query of several vectors, by the largest.

    Args:
        queries: (Q, D), or (Q, K * D).
        items: (N, D), on the same device.
        seen: for each query the item rows to leave out.

    Returns:
        int64 (Q, min(k, N)) item rows, best first; -1 where only seen items are left.
    """
    k = min(k, len(items))
    found = []
    for at in range(0, len(queries), BLOCK):
        scores = largest_products(queries[at : at + BLOCK], items)
        if seen is not None:
            mask_seen(scores, seen[at : at + BLOCK])
        best = torch.topk(scores, k, dim=1)
        found.append(best.indices.masked_fill(best.values.isneginf(), -1))
    return torch.cat(found).cpu().numpy()


def mask_seen(scores: Tensor, seen: Sequence[Rows]) -> None:
    """Set the scores (Q, N) of the items that each query has seen to minus infinity, in place."""
    lengths = np.fromiter(map(len, seen), np.int64, len(seen))
    if lengths.any():
        query, item = np.repeat(np.arange(len(seen)), lengths), np.concatenate(seen)
        scores[beside(torch.from_numpy(query), scores), beside(torch.from_numpy(item), scores)] = -torch.inf
