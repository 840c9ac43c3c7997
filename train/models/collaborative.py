"""Collaborative filtering by item-item weights: item-kNN and EASE, from the interaction matrix."""

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch

from train.data.training_data import TrainingData

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def interaction_matrix(data: TrainingData) -> scipy.sparse.csr_matrix:
    """(U, N): 1 where a user has interacted with an item in a positive training pair."""
    pairs = data.parts["train"].positive()
    assert data.histories is not None
    # The histories of one user begin at the same place.
    users, user = np.unique(data.histories.begin[pairs.query], return_inverse=True)
    ones = np.ones(len(pairs), np.float32)
    matrix = scipy.sparse.csr_matrix((ones, (user, pairs.item)), shape=(len(users), data.item_count))
    matrix.data[:] = 1  # repeated interactions count once
    return matrix


def ease(matrix: scipy.sparse.csr_matrix, strength: float) -> Floats:
    """(N, N): item-item weights with a zero diagonal (Steck 2019, equation 8).

    Args:
        matrix: (U, N) interactions.
        strength: lambda, of the L2 penalty.
    """
    gram = (matrix.T @ matrix).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += strength
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(gram))).numpy()
    weights = inverse / -np.diag(inverse)
    weights[np.diag_indices_from(weights)] = 0
    return np.asarray(weights, np.float32)


def item_knn(matrix: scipy.sparse.csr_matrix, neighbours: int) -> Floats:
    """(N, N): cosines of the items' columns, 0 except for each item's `neighbours` most similar items.

    Sarwar et al. 2001, section 3.1.
    """
    gram = (matrix.T @ matrix).toarray().astype(np.float32)
    norms = np.sqrt(np.diag(gram))
    cosine = gram / np.maximum(norms[:, None] * norms, 1e-9)
    cosine[np.diag_indices_from(cosine)] = 0
    if neighbours < len(cosine):
        threshold = np.partition(cosine, -neighbours, axis=0)[-neighbours]
        cosine[cosine < threshold] = 0
    return np.asarray(cosine, np.float32)


def history_matrix(data: TrainingData, queries: Rows) -> scipy.sparse.csr_matrix:
    """(Q, N): 1 where an item is in a query's history."""
    assert data.histories is not None
    rows = [np.unique(data.histories.rows(query)) for query in queries]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    flat = np.concatenate(rows) if rows else np.empty(0, np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    ones = np.ones(len(flat), np.float32)
    return scipy.sparse.csr_matrix((ones, flat, ends), shape=(len(rows), data.item_count))
