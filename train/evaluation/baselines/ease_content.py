"""EASE and the contents of items, times what is popular lately: `ease_recent` with other item-item weights.

It reads what the recipe for histories reads: ids, contents and times. To the weights of EASE is added the
cosine of two items' TF-IDF, over the words of their texts and the values of their categories. How much of it,
and the settings of `ease_recent`, are chosen on validation, one after the other, until none changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from protos.features import CategoryFeature, FeatureSpec, TextFeature
from protos.lexical import ANALYZERS
from train.config import Experiment
from train.data.recency import WINDOWS, RecentShares
from train.data.training_data import TrainingData
from train.evaluation.baselines import ease, ease_recency, ease_recent
from train.evaluation.ranking import (
    DECAYS,
    Baseline,
    FittedBaseline,
    Fitting,
    Floats,
    Rows,
    Scorer,
    has_times,
    rank_by,
)

CONTENTS = (0.0, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class ContentSettings(ease_recent.RecentSettings):
    """What is chosen on validation.

    Args:
        content: weight of the cosines, once they and the weights of EASE have the same standard deviation.
    """

    content: float = 0.1


def cosines(experiment: Experiment, data: TrainingData, rows: Rows) -> Floats:
    """(M, M): of the contents of items in M rows, with a zero diagonal; zero where an item holds nothing."""
    # The import takes a second.
    from sklearn.feature_extraction.text import TfidfVectorizer

    terms = zip(*_terms(experiment, data), strict=True)
    vectors = TfidfVectorizer(analyzer=chain.from_iterable, sublinear_tf=True).fit_transform(terms)
    vectors = vectors[rows]
    found = np.asarray((vectors @ vectors.T).toarray(), np.float32)
    np.fill_diagonal(found, 0)
    return found


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


class ContentScores:
    """The scores by some settings.

    Args:
        fitting: to the data of the queries.
    """

    def __init__(self, fitting: Fitting) -> None:
        self._data, self._ease = fitting.data, ease_recency.weights(fitting)[0]
        every = fitting.once("cosines", lambda: cosines(fitting.experiment, fitting.data, self._ease.rows))
        self._cosines, self._values = every, np.asarray(self._ease.values)
        self._unit = float(self._values.std()) / max(float(every.std()), 1e-12)
        self._shares = RecentShares(fitting.data)
        self._mixed = (0.0, self._ease)  # weight of the cosines, and the sum

    def scorer(self, settings: ContentSettings) -> Scorer:
        """The scores of all items."""
        if settings.content != self._mixed[0]:
            values = self._values + settings.content * self._unit * self._cosines
            self._mixed = (settings.content, replace(self._ease, values=values))
        return ease_recent.scorer(self._data, self._mixed[1], self._shares, settings)


def _fit(fitting: Fitting) -> FittedBaseline:
    settings = fitting.choose("EASE and content", ContentSettings, _choose)
    before = ease_recency.weights(fitting)[1]
    named = ease.named(fitting) | vars(settings) | {"own": before.own, "days": settings.days or "all"}
    return FittedBaseline(rank_by(fitting.data, ContentScores(fitting).scorer(settings)), named)


def _choose(fitting: Fitting) -> ContentSettings:
    tuning = fitting.tuning()  # over all items: those of a tuning with fewer have no contents
    ranges = [("content", CONTENTS), ("days", WINDOWS), ("power", ease_recent.POWERS), ("decay", DECAYS)]
    before = ease_recency.weights(fitting)[1]
    return tuning.search(ContentSettings(before.decay), ranges, ContentScores(fitting).scorer)


BASELINE = Baseline(
    "ease_content",
    "EASE, content, recency",
    _applies,
    _fit,
    "histories with times, and items with texts or categories",
)
