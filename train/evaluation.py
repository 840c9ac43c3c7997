"""Exact search over all items, and the metrics of what it ranks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.corpus import Corpus
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


def search(queries: Tensor, items: Tensor, k: int = max(CUTOFFS)) -> Rows:
    """Exact search by inner product: int64 (Q, min(k, N)) item rows, best first."""
    k = min(k, len(items))
    found: Sequence[Tensor] = [
        torch.topk(queries[at : at + _BLOCK] @ items.T, k, dim=1).indices
        for at in range(0, len(queries), _BLOCK)
    ]
    return torch.cat(list(found)).numpy()
