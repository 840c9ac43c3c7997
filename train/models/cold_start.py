"""Cold start: vectors of items that are not in the training data, from their content.

After training, the learned vectors of known items are regressed on the items' content; an item with an
unknown id gets the predicted vector (Gantner et al. 2010, "Learning Attribute-to-Feature Mappings for
Cold-Start Recommendations", section IV). Vectors of known items do not change.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor, nn

from twinspire.protos.features import UNKNOWN
from twinspire.train.models.encoders import CategoryEncoder, HashedTextEncoder, NumberEncoder
from twinspire.train.models.placement import to_device_of, to_device_of_module
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.towers import Tower

Matrix = Any  # a scipy.sparse.csr_matrix; scipy has no types


def fit_content_fallback(
    tower: Tower, items: PreparedInputs, counts: npt.NDArray[np.int64], alpha: float, strength: float
) -> bool:
    """Fit the item tower's content fallback by ridge regression on the known items.

    Args:
        counts: (N,), training interactions of each item.
        alpha: an item's weight is its interactions to this power. At 0 a new item gets the vector of an
            average item with its content; at 1 that of an average interaction, which has popular items.

    Returns:
        Whether the tower has a content fallback.
    """
    fallback = tower.newcomers
    if fallback is None:
        return False
    rows = np.flatnonzero(items.arrays[tower.id_name][:, 0] != UNKNOWN)
    with torch.no_grad():
        inputs = to_device_of_module(items.batch(rows), tower)
        targets = tower.encode_features(inputs).cpu().numpy()  # (N, H)
    blocks = [_design_matrix(name, each, items, rows) for name, each in fallback.encoders.items()]
    weights = counts[rows].astype(np.float64) ** alpha
    if blocks:
        from sklearn.linear_model import Ridge  # its import takes a second

        ridge = Ridge(alpha=strength, solver="sparse_cg", random_state=0)
        ridge.fit(
            scipy.sparse.hstack([block for block, _ in blocks], "csr"), targets, weights / weights.mean()
        )
        coefficients, common = np.asarray(ridge.coef_.T, np.float32), ridge.intercept_  # (F, H), (H,)
    else:
        coefficients, common = np.empty((0, targets.shape[1]), np.float32), np.average(targets, 0, weights)
    at = 0
    with torch.no_grad():
        fallback.common.copy_(torch.from_numpy(np.asarray(common, np.float32)))
        for block, parameter in blocks:
            parameter.copy_(torch.from_numpy(coefficients[at : at + block.shape[1]]))
            at += block.shape[1]
    return True


def _design_matrix(
    name: str, encoder: nn.Module, items: PreparedInputs, rows: npt.NDArray[np.int64]
) -> tuple[Matrix, Tensor]:
    """The matrix (N, F) that an encoder multiplies with its parameter, and this (F, H)."""
    if isinstance(encoder, HashedTextEncoder):
        text = items.texts[name]
        shape = (len(items), len(encoder.table))
        matrix = scipy.sparse.csr_matrix((text.counts, text.rows, text.starts), shape=shape)[rows]
        return matrix, encoder.table
    array = items.arrays[name][rows]
    if isinstance(encoder, CategoryEncoder):
        present = array != 0
        item, column = np.nonzero(present)
        values = 1 / present.sum(axis=1)[item]
        shape = (len(rows), len(encoder.embedding.weight))
        matrix = scipy.sparse.csr_matrix((values, (item, array[item, column])), shape=shape)
        return matrix, encoder.embedding.weight
    assert isinstance(encoder, NumberEncoder)
    with torch.no_grad():
        number = to_device_of(array, encoder.mean)
        return scipy.sparse.csr_matrix(encoder.standardize(number).cpu().numpy()), encoder.map.weight.T
