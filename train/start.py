"""A tower starts as its baseline, so that learning only adds to it.

What is taken from data before the first step: vocabularies of categories, mean and deviation of numbers
(both from training rows), and IDF from the catalogue's texts, which is no more than BM25 is given.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse
import torch
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from protos.features import (
    FIRST_KNOWN,
    ITEM_VOCABULARY,
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    Schema,
    Side,
)
from train.collaborative import ease, interactions
from train.corpus import Corpus
from train.encoders import HashedText, Number
from train.history import Forget, Ids, Pooled
from train.problem import Problem
from train.towers import Tower

Values = Mapping[str, Sequence[Any]]


def schema_of(
    query: dict[str, FeatureSpec],
    item: dict[str, FeatureSpec],
    training: Mapping[Side, Values],
    items: Mapping[str, int],
) -> Schema:
    """The features with the vocabularies that training rows give them, most frequent first.

    Args:
        training: side -> feature name -> raw values of the training rows.
        items: item id -> its training interactions.
    """
    vocabularies: dict[str, tuple[str, ...]] = {}
    specs = [*query.values(), *item.values()]
    if any(isinstance(spec, IdFeature | HistoryFeature) for spec in specs):
        least = min((spec.min_count for spec in item.values() if isinstance(spec, IdFeature)), default=1)
        ranked = sorted(items.items(), key=lambda entry: (-entry[1], entry[0]))
        vocabularies[ITEM_VOCABULARY] = tuple(each for each, count in ranked if count >= least)
    sides: dict[Side, dict[str, FeatureSpec]] = {"query": query, "item": item}
    for side, features in sides.items():
        for name, spec in features.items():
            if isinstance(spec, CategoryFeature):
                known = _vocabulary(training[side][name], spec)
                vocabularies[f"{side}.{name}"] = known
    return Schema(query, item, vocabularies)


def _vocabulary(values: Sequence[Any], spec: CategoryFeature) -> tuple[str, ...]:
    lists = values if spec.multi else [[value] for value in values]
    counts = Counter(value for each in lists for value in each or () if value is not None)
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return tuple(value for value, count in ranked if count >= spec.min_count)


def start_text(towers: tuple[Tower, Tower], items: Corpus, latent: int, seed: int) -> None:
    """Make weighted text TF-IDF: the weights the square root of IDF, the table a projection.

    With the root on both sides a match counts as IDF, as in BM25. The first `latent` columns of the table
    become the right singular vectors of the items' weighted counts, one row an item of unit length
    (Deerwester et al. 1990), and the others keep what is random in them, less those directions. The first
    keep what words have in common, the second what tells them apart.
    """
    encoders = [
        encoder
        for tower in towers
        for encoder in tower.encoders.values()
        if isinstance(encoder, HashedText) and isinstance(encoder.weights, torch.nn.Parameter)
    ]
    if not encoders:
        return
    table = encoders[0].table
    root = np.sqrt(inverse_document_frequency(items, len(table)))
    with torch.no_grad():
        for encoder in encoders:
            encoder.weights[1:] = torch.from_numpy(root[1:])
        if latent:
            directions = _directions(items, root, latent, seed)
            rest = table[:, latent:] * (table.shape[1] / max(1, table.shape[1] - latent)) ** 0.5
            table[:, latent:] = rest - directions @ (directions.T @ rest)
            table[:, :latent] = directions


def _directions(items: Corpus, weights: npt.NDArray[np.float32], count: int, seed: int) -> torch.Tensor:
    """(buckets, count): right singular vectors of the items' weighted counts, strongest first."""
    blocks = [
        scipy.sparse.csr_matrix(
            (np.sqrt(text.counts) * weights[text.rows], text.rows, text.starts),
            shape=(len(items), len(weights)),
        )
        for text in items.texts.values()
    ]
    matrix = normalize(scipy.sparse.vstack(blocks, format="csr"))
    _, _, right = randomized_svd(matrix, min(count, *matrix.shape), n_iter=3, random_state=seed)
    directions = torch.zeros(len(weights), count)
    directions[:, : len(right)] = torch.from_numpy(np.ascontiguousarray(right.T))
    return directions


def inverse_document_frequency(items: Corpus, buckets: int) -> npt.NDArray[np.float32]:
    """(buckets,): IDF of each row of the table over all texts of the items."""
    texts = items.texts.values()
    frequency = sum(text.document_frequency(buckets) for text in texts)
    total = len(items) * max(1, len(texts))
    idf = np.log1p((total - frequency + 0.5) / (frequency + 0.5))
    return np.asarray(idf, np.float32)


def start_numbers(tower: Tower, side: Side, training: Mapping[Side, Values]) -> None:
    """Give the number encoders mean and deviation of the training rows; absent values do not count."""
    encoders = list(tower.encoders.items())
    if tower.newcomers is not None:
        encoders += tower.newcomers.encoders.items()
    for name, encoder in encoders:
        if isinstance(encoder, Number):
            values = [value for value in training[side][name] if value is not None]
            if values:
                encoder.mean.fill_(float(np.mean(values)))
                encoder.deviation.fill_(float(np.std(values)) or 1.0)


def start_forgetting(tower: Tower, schema: Schema, items: Mapping[str, int], alpha: float) -> None:
    """Let the item tower forget ids in proportion to interactions^alpha.

    Args:
        items: item id -> its training interactions.
    """
    for step in tower.prepare.values():
        if isinstance(step, Forget):
            counts = [items[each] for each in schema.vocabularies[ITEM_VOCABULARY]]
            step.weigh(torch.tensor(counts, dtype=torch.float32) ** alpha)


def start_factors(towers: tuple[Tower, Tower], problem: Problem, schema: Schema, strength: float) -> None:
    """Give the factors of a sequence tower those of EASE, fitted on training rows.

    EASE scores item j for a history x by x B. With B = U S V', cut to D values, the query is the sum of
    the rows of U sqrt(S), the item a row of V sqrt(S): the best two-tower model of D dimensions there is
    for B (Eckart and Young 1936).

    Args:
        strength: lambda of EASE.
    """
    query, item = (next(iter(tower.factors.values()), None) for tower in towers)
    if not isinstance(query, Pooled) or not isinstance(item, Ids):
        return
    row_of = {each: row for row, each in enumerate(problem.item_ids)}
    known = np.array([row_of[each] for each in schema.vocabularies[ITEM_VOCABULARY]], np.int64)
    weights = ease(interactions(problem)[:, known], strength)
    left, values, right = scipy.linalg.svd(weights, full_matrices=False, overwrite_a=True)
    width = min(item.table.shape[1], len(values))
    root = np.sqrt(values[:width])
    with torch.no_grad():
        query.table[FIRST_KNOWN:, :width] = torch.from_numpy((left[:, :width] * root).astype(np.float32))
        item.table[FIRST_KNOWN:, :width] = torch.from_numpy((right[:width].T * root).astype(np.float32))
