"""Encoding for evaluation, and exact search over all items."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twinspire.train.metrics import CUTOFFS
from twinspire.train.models.placement import Place, as_given, to_device_of
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.towers import Inputs, Tower, largest_products

Rows = npt.NDArray[np.int64]
BLOCK = 512  # records encoded, and queries searched, at a time
# Records that are encoded at a time, times the square of their longest history or text, are at most this:
# attention keeps several arrays of that size.
MAX_CELLS = 4_000_000


def encode(
    tower: Tower, corpus: PreparedInputs, rows: Rows | None = None, place: Place[Inputs] = as_given
) -> Tensor:
    """Vectors (len(rows), D) of records, without gradients, on the device of the tower.

    Args:
        rows: of the records; None encodes all.
        place: moves inputs to the device of the tower.
    """
    index = np.arange(len(corpus)) if rows is None else rows
    blocks = blocks_of_like_length(corpus, index)
    was_training = tower.training
    tower.eval()
    with torch.inference_mode():
        vectors = torch.cat([tower(place(corpus.batch(index[block]))) for block in blocks])
        encoded = torch.empty_like(vectors)
        encoded[to_device_of(np.concatenate(blocks), vectors)] = vectors
    tower.train(was_training)
    return encoded.clone()


def blocks_of_like_length(corpus: PreparedInputs, index: Rows) -> list[Rows]:
    """Parts of records that are encoded together, by the length of what attention reads.

    Each record of a part is padded to the longest one. A part has up to `BLOCK` records, and if it has more
    than one, up to `MAX_CELLS`.

    Args:
        index: int64 (B,), of the records.

    Returns:
        Places in `index`, of which each is in one part; one empty part of no records.
    """
    lengths = corpus.lengths(index)
    order = np.argsort(lengths, kind="stable")
    blocks: list[Rows] = []
    begin = 0
    while begin < len(order) or not blocks:
        longest = np.maximum(1, lengths[order[begin : begin + BLOCK]])
        count = np.count_nonzero(np.arange(1, len(longest) + 1) * longest**2 <= MAX_CELLS)
        end = begin + max(1, int(count))
        blocks.append(order[begin:end])
        begin = end
    return blocks


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
        scores[to_device_of(query, scores), to_device_of(item, scores)] = -torch.inf
