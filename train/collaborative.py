"""Collaborative filtering without learning by gradient: popularity, item-kNN, EASE.

Each is a function of the interaction matrix that gives scores of all items, so that all are ranked,
masked and measured alike.
"""

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from train.problem import Problem

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Scorer = Floats  # (N, N): what an item of the history adds to the score of each item


def interactions(problem: Problem) -> scipy.sparse.csr_matrix:
    """(U, N), 1 where a user has dealt with an item in training rows.

    A user is a run of histories; the items are those of the positive training pairs.
    """
    pairs = problem.parts["train"].positive()
    assert problem.histories is not None
    users, user = np.unique(problem.histories.begin[pairs.query], return_inverse=True)
    ones = np.ones(len(pairs), np.float32)
    matrix = scipy.sparse.csr_matrix((ones, (user, pairs.item)), shape=(len(users), problem.item_count))
    matrix.data[:] = 1  # an item counts once, however often it was dealt with
    return matrix


def ease(matrix: scipy.sparse.csr_matrix, strength: float) -> Floats:
    """(N, N) item-item weights with a zero diagonal (Steck 2019, equation 8).

    Args:
        matrix: (U, N) interactions.
        strength: lambda, of the L2 penalty.
    """
    gram = (matrix.T @ matrix).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += strength
    inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = inverse / -np.diag(inverse)
    weights[np.diag_indices_from(weights)] = 0
    return np.asarray(weights, np.float32)


def item_knn(matrix: scipy.sparse.csr_matrix, neighbours: int) -> Floats:
    """(N, N) cosines of the items' columns, those of each item's nearest `neighbours` alone.

    Sarwar et al. 2001, section 3.1.
    """
    gram = (matrix.T @ matrix).toarray().astype(np.float32)
    length = np.sqrt(np.diag(gram))
    cosine = gram / np.maximum(length[:, None] * length, 1e-9)
    cosine[np.diag_indices_from(cosine)] = 0
    if neighbours < len(cosine):
        least = np.partition(cosine, -neighbours, axis=0)[-neighbours]
        cosine[cosine < least] = 0
    return np.asarray(cosine, np.float32)


def of_histories(problem: Problem, queries: Rows) -> scipy.sparse.csr_matrix:
    """(Q, N), 1 where an item is in a query's history."""
    assert problem.histories is not None
    rows = [np.unique(problem.histories.rows(query)) for query in queries]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    flat = np.concatenate(rows) if rows else np.empty(0, np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    ones = np.ones(len(flat), np.float32)
    return scipy.sparse.csr_matrix((ones, flat, ends), shape=(len(rows), problem.item_count))
