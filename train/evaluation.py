"""Exact search over all items, and the metrics of what it ranks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.corpus import Corpus
from train.heads import Lift
from train.metrics import CUTOFFS
from train.towers import Tower

Rows = npt.NDArray[np.int64]
_BLOCK = 512


def encode(tower: Tower, corpus: Corpus, rows: Rows | None = None) -> Tensor:
    """Unit vectors (len(rows), D) of some records of a corpus, or of all."""
    index = np.arange(len(corpus)) if rows is None else rows
    was_training = tower.training
    tower.eval()
    with torch.inference_mode():
        blocks = [tower(corpus.batch(index[at : at + _BLOCK])) for at in range(0, len(index), _BLOCK)]
    tower.train(was_training)
    return torch.cat(blocks).clone()


def encode_catalogue(tower: Tower, corpus: Corpus) -> Tensor:
    """Unit vectors (N, D) of all items; how long an item may be is settled by the longest of them."""
    vectors = encode(tower, corpus)
    return tower.head.enclose(vectors) if isinstance(tower.head, Lift) else vectors


def search(queries: Tensor, items: Tensor, k: int = max(CUTOFFS), seen: Sequence[Rows] | None = None) -> Rows:
    """Exact search by inner product.

    Args:
        queries: (Q, D).
        items: (N, D).
        seen: for each query the item rows that are no answer to it.

    Returns:
        int64 (Q, min(k, N)) item rows, best first; -1 where only seen items are left.
    """
    k = min(k, len(items))
    found = []
    for at in range(0, len(queries), _BLOCK):
        scores = queries[at : at + _BLOCK] @ items.T
        if seen is not None:
            hide(scores.numpy(), seen[at : at + _BLOCK])
        best = torch.topk(scores, k, dim=1)
        found.append(best.indices.masked_fill(best.values.isneginf(), -1))
    return torch.cat(found).numpy()


def hide(scores: npt.NDArray[np.float32], seen: Sequence[Rows]) -> None:
    """Give the items that each query has seen (rows of (Q, N)) the score minus infinity."""
    lengths = np.fromiter(map(len, seen), np.int64, len(seen))
    if lengths.any():
        scores[np.repeat(np.arange(len(seen)), lengths), np.concatenate(seen)] = -np.inf
