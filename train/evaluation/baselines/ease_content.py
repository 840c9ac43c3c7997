"""EASE and the contents of items, times what is popular lately: `ease_recent` with other item-item weights.

It reads what the recipe for histories reads, ids, contents and what is popular lately, but no ages. To the
weights of EASE is added the cosine of two items' TF-IDF, over the words of their texts and the values of
their categories. How much of it, and the settings of `ease_recent`, are chosen on validation, one after the
other, until none changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import scipy.sparse
import torch

from twinspire.protos.features import CategoryFeature, FeatureSpec, TextFeature
from twinspire.protos.lexical import ANALYZERS
from twinspire.train.config import Experiment
from twinspire.train.data.recency import WINDOWS, RecentShares
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.baselines import ease, ease_recency, ease_recent
from twinspire.train.evaluation.ranking import (
    DECAYS,
    Baseline,
    BaselineFitter,
    FittedBaseline,
    Floats,
    Rows,
    Scorer,
    has_times,
    rank_by,
    summed,
)
from twinspire.train.models.collaborative import history_matrix

CONTENTS = (0.0, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
_BLOCK = 512  # items whose cosines are computed at a time


@dataclass(frozen=True)
class ContentSettings(ease_recent.RecentSettings):
    """What is chosen on validation.

    Args:
        content: weight of the cosines, once they and the weights of EASE have the same standard deviation.
    """

    content: float = 0.1


def content_vectors(experiment: Experiment, data: TrainingData) -> scipy.sparse.csr_matrix:
    """float32 (N, T): the TF-IDF of each item's terms, of unit norm; zero where an item holds nothing."""
    # The import takes a second.
    from sklearn.feature_extraction.text import TfidfVectorizer

    terms = zip(*_terms(experiment, data), strict=True)
    vectorizer = TfidfVectorizer(analyzer=chain.from_iterable, sublinear_tf=True, dtype=np.float32)
    return scipy.sparse.csr_matrix(vectorizer.fit_transform(terms))


def _terms(experiment: Experiment, data: TrainingData) -> Iterator[list[list[Any]]]:
    """Of each feature, the terms of all items."""
    for name, spec in experiment.item.items():
        values = data.items[name]
        if isinstance(spec, TextFeature):
            yield [*ANALYZERS["characters"].analyze(text or "" for text in values)]
        elif isinstance(spec, CategoryFeature):
            several = (each if isinstance(each, list) else [each] for each in values)
            yield [[f"{name}={each}" for each in one if each is not None] for one in several]


def _applies(experiment: Experiment, data: TrainingData) -> bool:
    return has_times(experiment, data) and any(
        _has_terms(spec, value) for name, spec in experiment.item.items() for value in data.items[name]
    )


def _has_terms(spec: FeatureSpec, value: Any) -> bool:
    if isinstance(spec, TextFeature):
        return any(map(str.isalnum, value or ""))
    return isinstance(spec, CategoryFeature) and value not in (None, [], [None])


class Cosines:
    """The cosines of contents as item-item weights with a zero diagonal; they are never held all at once.

    Args:
        vectors: (M, T), of unit norm, or zero.
    """

    def __init__(self, vectors: scipy.sparse.csr_matrix) -> None:
        self._vectors, self._by_term = vectors, vectors.T.tocsr()
        self._own = scipy.sparse.diags(
            np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel(), dtype=np.float32
        )

    def summed(self, history: scipy.sparse.csr_matrix) -> Floats:
        """(Q, M): the cosines summed over histories (Q, M), as terms first."""
        found = (history @ self._vectors) @ self._by_term - history @ self._own
        return np.asarray(found.toarray(), np.float32)

    def deviation(self) -> float:
        """The standard deviation of all (M, M)."""
        count, own = self._vectors.shape[0], self._own.diagonal()
        total = float(np.square(self._vectors.sum(axis=0), dtype=np.float64).sum()) - own.sum()
        squares = -float(np.square(own).sum())
        for at in range(0, count, _BLOCK):
            block = self._vectors[at : at + _BLOCK] @ self._by_term
            squares += float(np.square(block.data, dtype=np.float64).sum())
        return float(np.sqrt(max(0.0, squares / count**2 - (total / count**2) ** 2)))


class ContentScores:
    """The scores by some settings."""

    def __init__(self, fitter: BaselineFitter) -> None:
        self._data, self._ease = fitter.data, ease_recency.weights(fitter)[0]
        vectors = fitter.once("contents", lambda: content_vectors(fitter.experiment, fitter.data))
        self._cosines = Cosines(vectors[self._ease.rows])
        spread = torch.from_numpy(np.asarray(self._ease.values)).std(correction=0)  # NumPy copies the matrix
        self._unit = float(spread) / max(self._cosines.deviation(), 1e-12)
        self._shares = RecentShares(fitter.data)

    def scorer(self, settings: ContentSettings) -> Scorer:
        """The scores of all items."""
        by_ids, rows = summed(self._data, self._ease, settings.decay), self._ease.rows

        def score(queries: Rows) -> Floats:
            found = by_ids(queries)
            if settings.content:
                history = history_matrix(self._data, queries, settings.decay)[:, rows]
                found[:, rows] += settings.content * self._unit * self._cosines.summed(history)
            return found

        return ease_recent.scorer(score, self._shares, settings)


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    settings = fitter.choose("EASE and content", ContentSettings, _choose)
    before = ease_recency.weights(fitter)[1]
    named = ease.named(fitter) | vars(settings) | {"own": before.own, "days": settings.days or "all"}
    return FittedBaseline(rank_by(fitter.data, ContentScores(fitter).scorer(settings)), named)


def _choose(fitter: BaselineFitter) -> ContentSettings:
    tuning = fitter.tuning()  # over all items: those of a tuning with fewer have no contents
    ranges = [("content", CONTENTS), ("days", WINDOWS), ("power", ease_recent.POWERS), ("decay", DECAYS)]
    before = ease_recency.weights(fitter)[1]
    return tuning.search(ContentSettings(before.decay), ranges, ContentScores(fitter).scorer)


BASELINE = Baseline(
    "ease_content",
    "EASE, content, recency",
    _applies,
    _fit,
    "histories with times, and items with texts or categories",
)
