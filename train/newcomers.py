"""Where an item goes that training has not seen: by what it is.

After training, the learned vectors of known items are regressed on their content, and an item whose id is
unknown gets what its content says (Gantner et al. 2010, "Learning Attribute-to-Feature Mappings for
Cold-Start Recommendations", section IV). Known items stay where they are.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from protos.features import UNKNOWN
from train.corpus import Corpus
from train.encoders import Category, HashedText, Number
from train.towers import Tower

Matrix = Any  # a scipy.sparse.csr_matrix, which has no types


def fit_newcomers(
    tower: Tower, items: Corpus, counts: npt.NDArray[np.int64], alpha: float, strength: float
) -> None:
    """Regress what the item tower's encoders give for known items on their content; nothing if it has none.

    Args:
        tower: the item tower, trained.
        items: all of them.
        counts: (N,), training interactions of each.
        alpha: an item counts by its interactions to this power. At 1 a newcomer is taken for what people
            who meet an item of its kind meet on average, and that is the better known ones.
        strength: lambda of the ridge regression.
    """
    if tower.newcomers is None:
        return
    rows = np.flatnonzero(items.arrays[tower.id_name][:, 0] != UNKNOWN)
    with torch.no_grad():
        wanted = tower.combined(items.batch(rows)).numpy()  # (N, H)
    blocks = {name: _design(name, each, items, rows) for name, each in tower.newcomers.encoders.items()}
    weights = counts[rows].astype(np.float64) ** alpha
    if blocks:
        ridge = Ridge(alpha=strength, solver="sparse_cg", random_state=0)
        ridge.fit(scipy.sparse.hstack(list(blocks.values()), "csr"), wanted, weights / weights.mean())
        fitted, common = np.asarray(ridge.coef_.T, np.float32), ridge.intercept_  # (F, H), (H,)
    else:
        fitted, common = np.empty((0, wanted.shape[1]), np.float32), np.average(wanted, 0, weights)
    at = 0
    with torch.no_grad():
        tower.newcomers.common.copy_(torch.from_numpy(np.asarray(common, np.float32)))
        for name, block in blocks.items():
            _put(tower.newcomers.encoders[name], torch.from_numpy(fitted[at : at + block.shape[1]]))
            at += block.shape[1]


def _design(name: str, encoder: nn.Module, items: Corpus, rows: npt.NDArray[np.int64]) -> Matrix:
    """(N, F): what an encoder multiplies its parameter of F rows with."""
    if isinstance(encoder, HashedText):
        text = items.texts[name]
        shape = (len(items), len(encoder.table))
        return scipy.sparse.csr_matrix((text.counts, text.rows, text.starts), shape=shape)[rows]
    array = items.arrays[name][rows]
    if isinstance(encoder, Category):
        present = array != 0
        item, column = np.nonzero(present)
        values = 1 / present.sum(axis=1)[item]
        shape = (len(rows), len(encoder.embedding.weight))
        return scipy.sparse.csr_matrix((values, (item, array[item, column])), shape=shape)
    assert isinstance(encoder, Number)
    with torch.no_grad():
        return scipy.sparse.csr_matrix(encoder.standard(torch.from_numpy(array)).numpy())


def _put(encoder: nn.Module, fitted: Tensor) -> None:
    if isinstance(encoder, HashedText):
        encoder.table.copy_(fitted)
    elif isinstance(encoder, Category):
        encoder.embedding.weight.copy_(fitted)
    else:
        assert isinstance(encoder, Number)
        encoder.map.weight.copy_(fitted.T)
