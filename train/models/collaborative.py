"""Collaborative filtering from the interaction matrix: item-kNN, EASE, and what they have in common."""

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from train.data.training_data import TrainingData

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SINGLE_PRECISION = 3e-5  # lambda by the norm of the Gram matrix, from which on single precision will do
_SMALL = 512  # rows of a matrix that is inverted by one call


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
    return ease_of_gram(gram_matrix(matrix), strength)


def ease_of_gram(gram: Tensor, strength: float) -> Floats:
    """The same from the Gram matrix (N, N) of the interactions, which is overwritten."""
    weights = invert_ridge(gram, strength)
    weights /= -weights.diagonal().clone()
    weights.fill_diagonal_(0)
    return np.asarray(weights.numpy(), np.float32)


def gram_matrix(left: scipy.sparse.csr_matrix, right: scipy.sparse.csr_matrix | None = None) -> Tensor:
    """float32 (N, M): left' right of matrices (U, N) and (U, M); without `right`, left' left."""
    product = left.T @ (left if right is None else right)
    return torch.from_numpy(np.ascontiguousarray(product.toarray(), np.float32))


def invert_ridge(gram: Tensor, strength: float) -> Tensor:
    """float32 (N, N): the inverse of gram + strength I; `gram` is overwritten.

    In double precision where the matrix is small, or where single precision would not do: with lambda at
    3e-5 of the matrix's norm, EASE's weights differ by a thousandth.
    """
    single = len(gram) > _SMALL and strength > SINGLE_PRECISION * float(torch.linalg.vector_norm(gram))
    gram.diagonal().add_(strength)
    return invert(gram) if single else invert(gram.double()).float()


def invert(matrix: Tensor) -> Tensor:
    """The inverse (N, N) of a symmetric positive definite matrix, in its place and in its precision.

    By halves, with the Schur complement of the first (Zhang 2005): nearly all work is products
    of matrices, which use the cores better than the inverse from a Cholesky factor does.

    Raises:
        torch.linalg.LinAlgError: the matrix is not positive definite.
    """
    size = len(matrix)
    if size <= _SMALL:
        return matrix.copy_(torch.cholesky_inverse(torch.linalg.cholesky(matrix)))
    half = size // 2
    first, corner, last = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    invert(first)
    projected = first @ corner  # (N / 2, N / 2)
    last.addmm_(corner.T, projected, alpha=-1)
    invert(last)
    torch.mm(projected, last, out=corner)
    corner.neg_()
    first.addmm_(corner, projected.T, alpha=-1)
    matrix[half:, :half] = corner.T
    return matrix


def item_knn(matrix: scipy.sparse.csr_matrix, neighbours: int) -> scipy.sparse.csr_matrix:
    """(N, N): cosines of the items' columns, 0 except for each item's `neighbours` most similar items.

    Sarwar et al. 2001, section 3.1.
    """
    cosine = gram_matrix(matrix).numpy()
    norms = np.sqrt(np.diag(cosine))
    cosine /= np.maximum(norms[:, None] * norms, 1e-9)
    np.fill_diagonal(cosine, 0)
    if neighbours < len(cosine):
        # The matrix is symmetric: the largest of a row are those of a column.
        least = torch.topk(torch.from_numpy(cosine), neighbours, dim=1).values[:, -1].numpy()
        cosine[cosine < least] = 0
    return scipy.sparse.csr_matrix(cosine)


def history_matrix(data: TrainingData, queries: Rows, decay: float = 1.0) -> scipy.sparse.csr_matrix:
    """(Q, N): the weight of each item in a query's history; 0 of other items.

    Args:
        decay: factor on the weight of an event for each later step of the history. A step is a session,
            where the data have sessions, else an event. Events of the last step weigh 1; of an item that
            occurs several times, the last event counts.
    """
    histories = data.histories
    assert histories is not None
    begin, end = histories.begin[queries], histories.end[queries]
    lengths = end - begin
    query = np.repeat(np.arange(len(queries)), lengths)
    starts = np.cumsum(lengths) - lengths
    event = np.arange(len(query)) - np.repeat(starts - begin, lengths)
    # Reversed, because `unique` keeps the first of equal elements.
    key, last = np.unique((query * data.item_count + histories.run[event])[::-1], return_index=True)
    chosen = len(query) - 1 - last
    query, item = np.divmod(key, max(1, data.item_count))
    step = histories.steps if histories.steps is not None else np.arange(len(histories.run))
    later = step[end[query] - 1] - step[event[chosen]]
    weights = np.power(decay, later).astype(np.float32)
    return scipy.sparse.csr_matrix((weights, (query, item)), shape=(len(queries), data.item_count))
