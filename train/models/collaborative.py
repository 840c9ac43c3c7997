"""Collaborative filtering from the interaction matrix: item-kNN, EASE, and what they have in common."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from twinspire.train.data.ranges import concatenate_ranges, range_indices
from twinspire.train.data.training_data import Floats, Rows, TrainingData

SINGLE_PRECISION = 3e-5  # lambda by the norm of the Gram matrix, from which on single precision will do
_ITERATIONS = 4  # of a subspace; a few more than two are lost in the noise of the scores
_CURVE_QUERIES = 20_000  # histories that a mean over positions reads, about
_SMALL = 512  # rows of a matrix that is inverted by one call
_COSINES = 16_000_000  # that are computed at a time, at most


def interaction_matrix(data: TrainingData) -> scipy.sparse.csr_matrix:
    """(U, N): 1 where a user has interacted with an item in a positive training pair."""
    pairs = data.some_pairs
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
    return np.asarray(ease_of_gram(gram_matrix(matrix), strength))


def ease_of_gram(gram: Tensor, strength: float) -> Tensor:
    """The same from the Gram matrix (N, N) of the interactions, on its device; it is overwritten."""
    weights = invert_ridge(gram, strength)
    weights /= -weights.diagonal().clone()
    return weights.fill_diagonal_(0)


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


def score_factors(
    matrix: scipy.sparse.csr_matrix,
    weights: Floats | scipy.sparse.csr_matrix,
    width: int,
    own: float = 0.0,
) -> tuple[Floats, Floats]:
    """Factors L and R, each (N, width), of item-item weights B: L R' is close to B where users are.

    Of all factors of this width they keep the scores X B of the training histories X best (reduced-rank
    regression, Izenman 1975): R are the first right singular vectors of X B, and L = B R. They are found by
    subspace iteration (Halko et al. 2011, algorithm 4.4), without computing X B.

    Args:
        matrix: (U, N), X.
        weights: (N, N), B less its diagonal's `own`.
        width: columns beyond N are zero.
        own: added to the diagonal of B.
    """
    items = weights.shape[1]
    kept = min(width, items)
    wide = min(items, kept + max(16, kept // 4))
    start = np.random.default_rng(0).standard_normal((items, wide)).astype(np.float32)
    basis = np.linalg.qr(start)[0]
    for _ in range(_ITERATIONS):
        users = matrix.T @ (matrix @ (weights @ basis + own * basis))
        basis = np.linalg.qr(weights.T @ users + own * users)[0]
    scores = matrix @ (weights @ basis + own * basis)  # (U, wide)
    _, vectors = np.linalg.eigh((scores.T @ scores).astype(np.float64))
    right = basis @ vectors[:, ::-1][:, :kept].astype(np.float32)
    factors = [np.zeros((items, width), np.float32) for _ in range(2)]
    factors[0][:, :kept], factors[1][:, :kept] = weights @ right + own * right, right
    return factors[0], factors[1]


def position_weights(data: TrainingData, decay: float, positions: int) -> Floats:
    """(positions,): the weight of a history's items by position, the newest item last.

    It is the mean over training histories of decay^steps, with the steps between an item and the last step of
    the history: a client sends the items of a history, and not their sessions.

    Args:
        decay: factor for each step, as of `history_matrix`.
        positions: where no history is so long, the weight of the longest ones' first item goes on.
    """
    histories = data.histories
    assert histories is not None
    queries = np.unique(data.some_pairs.query)
    queries = queries[:: max(1, len(queries) // _CURVE_QUERIES)]
    begin, end = histories.begin[queries], histories.end[queries]
    curve = np.ones(positions, np.float32)
    for age in range(positions):
        present = end - begin > age
        if not present.any():
            curve[age:] = curve[max(0, age - 1)]
            break
        last = end[present] - 1
        steps = histories.steps_between(last - age, last)
        curve[age] = np.power(decay, steps).mean()
    return curve[::-1].copy()


def item_knn(matrix: scipy.sparse.csr_matrix, neighbours: int) -> scipy.sparse.csr_matrix:
    """(N, N): cosines of the items' columns, 0 except for each item's `neighbours` most similar items.

    Sarwar et al. 2001, section 3.1. A block of items is compared with all others at a time, so memory grows
    with N x `neighbours`, and time with the pairs of items in the histories.
    """
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    unit = matrix @ scipy.sparse.diags(1 / np.maximum(norms, 1e-9), dtype=np.float32)
    columns, rows = unit.T.tocsr(), unit.tocsr()
    blocks = []
    block = max(1, _COSINES // max(1, matrix.shape[1]))
    for at in range(0, matrix.shape[1], block):
        cosines = (columns[at : at + block] @ rows).tocsr()
        item = range_indices(np.diff(cosines.indptr))
        cosines.data[item + at == cosines.indices] = 0
        blocks.append(most_similar(cosines, neighbours))
    # The matrix of all cosines is symmetric: the largest of a row are those of a column.
    return scipy.sparse.vstack(blocks).T.tocsr()


def most_similar(cosines: scipy.sparse.csr_matrix, neighbours: int) -> scipy.sparse.csr_matrix:
    """The `neighbours` largest positive values of each row; of equal ones those of the first columns."""
    item = range_indices(np.diff(cosines.indptr))
    order = np.lexsort((cosines.indices, -cosines.data, item))
    place = np.arange(len(item)) - cosines.indptr[item]  # in its row, once sorted
    kept = order[(place < neighbours) & (cosines.data[order] > 0)]
    cells = (cosines.data[kept], (item[kept], cosines.indices[kept]))
    return scipy.sparse.csr_matrix(cells, shape=cosines.shape)


@dataclass(frozen=True)
class ItemWeights:
    """Item-item weights that a history's events are multiplied by, over some of the N items.

    Args:
        values: float32 (M, M), from the items of a history to the items that are scored.
        rows: int64 (M,), the rows of these items, ascending; all other items have no weights.
        own: added weight of each of the N items for itself, of all its events in the history; above 0 where
            users take items again.
    """

    values: Floats | scipy.sparse.csr_matrix
    rows: Rows
    own: float = 0.0

    def scores(self, data: TrainingData, queries: Rows, decay: float = 1.0, ages: float = 0.0) -> Floats:
        """The scores of all N items for queries, float32 (Q, N); `decay`, `ages` as of `history_matrix`."""
        found = np.zeros((len(queries), data.item_count), np.float32)
        history = history_matrix(data, queries, decay, ages=ages)
        product = (history if len(self.rows) == data.item_count else history[:, self.rows]) @ self.values
        found[:, self.rows] = product.toarray() if scipy.sparse.issparse(product) else product
        if self.own:
            found += self.own * history_matrix(data, queries, decay, every=True, ages=ages).toarray()
        return found


def history_matrix(
    data: TrainingData, queries: Rows, decay: float = 1.0, every: bool = False, ages: float = 0.0
) -> scipy.sparse.csr_matrix:
    """(Q, N): the weight of each item in a query's history; 0 of other items.

    Args:
        decay: factor on the weight of an event for each later step of the history. A step is a session,
            where the data have sessions, else an event. Events of the last step weigh 1; of an item that
            occurs several times, the last event counts.
        every: add the weights of all events of an item instead.
        ages: an event also weighs (1 + age / minute)^-ages; above 0 only where events and queries have times.
            The age is 0 where the time of the query is not known.
    """
    histories = data.histories
    assert histories is not None
    begin, end = histories.begin[queries], histories.end[queries]
    lengths = end - begin
    query, event = range_indices(lengths), concatenate_ranges(begin, lengths)
    item = histories.run[event]
    if not every:
        # Reversed, because `unique` keeps the first of equal elements.
        last = np.unique((query * data.item_count + item)[::-1], return_index=True)[1]
        chosen = len(query) - 1 - last
        query, item, event = query[chosen], item[chosen], event[chosen]
    weights = np.power(decay, histories.steps_between(event, end[query] - 1)).astype(np.float32)
    if ages:
        assert histories.times is not None and data.moments is not None
        age = data.moments[queries][query] - histories.times[event]
        minutes = np.where(np.isfinite(age), age.clip(min=0), 0) / 60
        weights *= np.power(1 + minutes, -ages).astype(np.float32)
    return scipy.sparse.csr_matrix((weights, (query, item)), shape=(len(queries), data.item_count))
