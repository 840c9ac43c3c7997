"""Start values of the towers: before the first step a tower equals its baseline, TF-IDF or EASE.

They follow from the training rows, except IDF, which follows from the catalogue's texts, as in BM25.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from twinspire.protos.features import (
    FIRST_KNOWN,
    ITEM_VOCABULARY,
    Schema,
    Side,
)
from twinspire.train.data.training_data import Floats, TrainingData
from twinspire.train.models.collaborative import ease_of_gram, gram_matrix, interaction_matrix
from twinspire.train.models.encoders import HashedTextEncoder, NumberEncoder
from twinspire.train.models.placement import to_device_of
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.sequence_encoders import IdEncoder, PoolingEncoder
from twinspire.train.models.towers import Tower

Values = Mapping[str, Sequence[Any]]

EXACT_UP_TO = 1_000  # items, of which all singular values are computed
MAX_APPROXIMATED_SHARE = 1 / 8  # a larger share of the singular values is computed exactly


def initialize_tfidf(towers: tuple[Tower, Tower], items: PreparedInputs, latent: int, seed: int) -> None:
    """Start text encoders with learned weights as TF-IDF: weights are the square root of IDF.

    The square roots of both towers multiply to IDF, as in BM25. The table is a projection. Its first
    `latent` columns become the right singular vectors of the items' weighted counts, each item a row of unit
    length (Deerwester et al. 1990): they hold what words have in common. The other columns stay random, but
    orthogonal to the first: they tell words apart.

    Args:
        towers: query tower and item tower, which share the table.
        latent: number of columns from the singular value decomposition.
    """
    encoders = [
        encoder
        for tower in towers
        for encoder in tower.encoders.values()
        if isinstance(encoder, HashedTextEncoder) and isinstance(encoder.weights, torch.nn.Parameter)
    ]
    if not encoders:
        return
    table = encoders[0].table
    root = np.sqrt(inverse_document_frequency(items, len(table)))
    with torch.no_grad():
        for encoder in encoders:
            encoder.weights[1:] = torch.from_numpy(root[1:])
        if latent:
            directions = to_device_of(_singular_vectors(items, root, latent, seed), table)
            random = table[:, latent:] * (table.shape[1] / max(1, table.shape[1] - latent)) ** 0.5
            table[:, latent:] = random - directions @ (directions.T @ random)
            table[:, :latent] = directions


def _singular_vectors(
    items: PreparedInputs, weights: npt.NDArray[np.float32], count: int, seed: int
) -> Tensor:
    """(buckets, count): right singular vectors of the items' weighted counts, strongest first."""
    from sklearn.preprocessing import normalize  # its import takes a second
    from sklearn.utils.extmath import randomized_svd

    blocks = [
        scipy.sparse.csr_matrix(
            (np.sqrt(text.counts) * weights[text.rows], text.rows, text.starts),
            shape=(len(items), len(weights)),
        )
        for text in items.texts.values()
    ]
    matrix = normalize(scipy.sparse.vstack(blocks, format="csr"))
    kept = min(count, *matrix.shape)
    _, _, right = randomized_svd(matrix, kept, n_iter=3, random_state=seed)
    directions = torch.zeros(len(weights), count)
    directions[:, :kept] = torch.from_numpy(right.T)
    return directions


def inverse_document_frequency(items: PreparedInputs, buckets: int) -> npt.NDArray[np.float32]:
    """(buckets,): IDF of each row of the table over all texts of the items."""
    texts = items.texts.values()
    # The number of texts that each row occurs in.
    frequency = sum(np.bincount(text.rows, minlength=buckets) for text in texts)
    total = len(items) * max(1, len(texts))
    idf = np.log1p((total - frequency + 0.5) / (frequency + 0.5))
    return np.asarray(idf, np.float32)


def fit_number_encoders(tower: Tower, side: Side, training: Mapping[Side, Values]) -> None:
    """Set mean and standard deviation of number encoders to those of the training rows that have a value."""
    encoders = list(tower.encoders.items())
    if tower.newcomers is not None:
        encoders += tower.newcomers.encoders.items()
    for name, encoder in encoders:
        if isinstance(encoder, NumberEncoder):
            values = [value for value in training[side][name] if value is not None]
            if values:
                encoder.mean.fill_(float(np.mean(values)))
                encoder.deviation.fill_(float(np.std(values)) or 1.0)


def initialize_ease(towers: tuple[Tower, Tower], data: TrainingData, schema: Schema, strength: float) -> None:
    """Set the factors of a sequence tower to those of EASE, fitted on the training rows.

    EASE scores the items for a history x by x B. With B = U S V', cut to D singular values, the query vector
    is the sum of the rows of U sqrt(S) of the history's items, the item vector is a row of V sqrt(S). This is
    the best approximation of B by a two-tower model of D dimensions (Eckart and Young 1936).

    Args:
        towers: query tower and item tower; without factors they stay unchanged.
    """
    query, item = (next(iter(tower.factors.values()), None) for tower in towers)
    if not isinstance(query, PoolingEncoder) or not isinstance(item, IdEncoder):
        return
    row_of = {each: row for row, each in enumerate(data.item_ids)}
    known = np.array([row_of[each] for each in schema.vocabularies[ITEM_VOCABULARY]], np.int64)
    weights = ease_of_gram(gram_matrix(interaction_matrix(data)[:, known]), strength)
    width = min(item.table.shape[1], len(weights))
    with torch.no_grad():
        for table, factor in zip((query.table, item.table), _factors(weights.numpy(), width), strict=True):
            table[FIRST_KNOWN:, :width] = torch.from_numpy(factor)


def _factors(weights: Floats, width: int) -> list[Floats]:
    """U sqrt(S) and V sqrt(S), each (N, width), of the largest singular values of a matrix (N, N).

    By random projection where a small part of many is asked for (Halko et al. 2011, algorithm 4.4).
    """
    if len(weights) <= EXACT_UP_TO or width > MAX_APPROXIMATED_SHARE * len(weights):
        left, values, right = np.linalg.svd(weights, full_matrices=False)
    else:
        from sklearn.utils.extmath import randomized_svd

        found = randomized_svd(weights, width, n_oversamples=width // 2, n_iter=4, random_state=0)
        left, values, right = (np.asarray(each, np.float32) for each in found)
    root = np.sqrt(values[:width])
    return [(each[:, :width] * root).astype(np.float32) for each in (left, right.T)]
