"""EASE with recency weights and the contents of items, times what is popular lately.

    score = max(0, history @ (EASE + content * cosines)) * share^power

It reads what the recipe for histories reads, ids, contents and what is popular lately, but no ages. The share
is the item's of the training events in the last days before the query. Where items have texts or categories,
the cosine of two items' TF-IDF, over their words and values, is added to EASE's weight. How much of it, days,
power and the decay of the history are chosen on validation, one after the other, until none changes. The
weight of an item for itself is that of EASE with recency weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import scipy.sparse
import torch

from twinspire.protos.features import CategoryFeature, FeatureSpec, TextFeature
from twinspire.protos.lexical import ANALYZERS, runs_of
from twinspire.train.config import Experiment
from twinspire.train.data.recency import WHOLE, WINDOWS, RecentShares
from twinspire.train.data.training_data import Floats, Rows, TrainingData
from twinspire.train.evaluation.baselines import ease
from twinspire.train.evaluation.ranking import (
    DECAYS,
    Baseline,
    BaselineFitter,
    FittedBaseline,
    Scorer,
    has_times,
    rank_by,
    summed,
)
from twinspire.train.models.collaborative import history_matrix

CONTENTS = (0.0, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
POWERS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3)
FLOOR = 1e-6  # added to a score, so that popular items are first where the history says nothing
PRIOR = 0.05  # weight of the share of all that went before in the share of the last days
_BLOCK = 512  # items whose cosines are computed at a time


@dataclass(frozen=True)
class RecentSettings:
    """What is chosen on validation.

    Args:
        decay: factor on an event for each later step of the history.
        days: length of the window.
        power: exponent of the shares; with 0 what is popular lately does not count.
        content: weight of the cosines, once they and the weights of EASE have the same standard deviation; 0
            where items have no contents.
    """

    decay: float
    days: float = 30.0
    power: float = 0.5
    content: float = 0.1


def scorer(score: Scorer, shares: RecentShares, settings: RecentSettings) -> Scorer:
    """Scores of histories times recent shares to a power.

    Args:
        score: with the decay and the contents of the settings.
    """
    if not settings.power:
        return score

    def product(rows: Rows) -> Floats:
        recent = (1 - PRIOR) * shares.of(rows, settings.days) + PRIOR * shares.of(rows, WHOLE)
        factor = np.power(recent, settings.power, dtype=np.float32)
        # A product with a score below 0 would place popular items last.
        return np.asarray((np.maximum(score(rows), 0) + FLOOR) * factor, np.float32)

    return product


def content_vectors(experiment: Experiment, data: TrainingData) -> scipy.sparse.csr_matrix:
    """float32 (N, T): the TF-IDF of each item's terms, of unit norm; zero where an item holds nothing."""
    # The import takes a second.
    from sklearn.feature_extraction.text import TfidfVectorizer

    terms = zip(*_terms(experiment, data), strict=True)
    vectorizer = TfidfVectorizer(analyzer=chain.from_iterable, sublinear_tf=True, dtype=np.float32)
    return scipy.sparse.csr_matrix(vectorizer.fit_transform(terms))


def _terms(experiment: Experiment, data: TrainingData) -> Iterator[list[list[Any]]]:
    """Of each feature, the terms of all items."""
    of_run = cache(ANALYZERS["characters"].of_run())  # what occurs in several texts is analysed once
    for name, spec in experiment.item.items():
        values = data.items[name]
        if isinstance(spec, TextFeature):
            yield [[token for run in runs_of(text or "") for token in of_run(run)] for text in values]
        elif isinstance(spec, CategoryFeature):
            several = (each if isinstance(each, list) else [each] for each in values)
            yield [[f"{name}={each}" for each in one if each is not None] for one in several]


def _has_contents(experiment: Experiment, data: TrainingData) -> bool:
    """Whether an item has a text or a category."""
    return any(
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
        self._data, self._ease = fitter.data, ease.recency_weights(fitter)[0]
        self._shares = RecentShares(fitter.data)
        self.has_contents = _has_contents(fitter.experiment, fitter.data)
        if self.has_contents:
            vectors = fitter.once("contents", lambda: content_vectors(fitter.experiment, fitter.data))
            self._cosines = Cosines(vectors[self._ease.rows])
            spread = torch.from_numpy(np.asarray(self._ease.values)).std(correction=0)  # NumPy copies it
            self._unit = float(spread) / max(self._cosines.deviation(), 1e-12)

    def scorer(self, settings: RecentSettings) -> Scorer:
        """The scores of all items."""
        by_ids, rows = summed(self._data, self._ease, settings.decay), self._ease.rows

        def score(queries: Rows) -> Floats:
            found = by_ids(queries)
            if settings.content and self.has_contents:
                history = history_matrix(self._data, queries, settings.decay)[:, rows]
                found[:, rows] += settings.content * self._unit * self._cosines.summed(history)
            return found

        return scorer(score, self._shares, settings)


def _fit(fitter: BaselineFitter) -> FittedBaseline:
    settings = fitter.choose("EASE, content, recency", RecentSettings, _choose)
    before = ease.recency_weights(fitter)[1]
    named = ease.named(fitter) | vars(settings) | {"own": before.own, "days": settings.days or "all"}
    return FittedBaseline(rank_by(fitter.data, ContentScores(fitter).scorer(settings)), named)


def _choose(fitter: BaselineFitter) -> RecentSettings:
    # Over all items: those of a tuning with fewer have no contents.
    tuning, scores = fitter.tuning(), ContentScores(fitter)
    ranges = [("days", WINDOWS), ("power", POWERS), ("decay", DECAYS)]
    start = RecentSettings(ease.recency_weights(fitter)[1].decay)
    if not scores.has_contents:
        return tuning.search(replace(start, content=0.0), ranges, scores.scorer)
    return tuning.search(start, [("content", CONTENTS), *ranges], scores.scorer)


BASELINE = Baseline("ease_recent", "EASE, content, recency", has_times, _fit, "histories with times")
