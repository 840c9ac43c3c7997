"""BM25 over what the towers read: texts cut to their `max_length` (Robertson and Zaragoza 2009)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.features import TextFeature
from protos.lexical import ANALYZERS, Analyzer, choose_analyzer
from train.config import Experiment
from train.data.training_data import TrainingData, texts_of
from train.evaluation.bm25 import Bm25
from train.evaluation.metrics import CUTOFFS, mean, per_query
from train.evaluation.ranking import Baseline, FittedBaseline, Fitting, selection_metric

Rows = npt.NDArray[np.int64]

SAMPLED_TEXTS = 2_000  # of the items, from which the analyser is chosen
TUNED_ON = 1_000  # validation queries on which k1 and b are chosen


def has_texts(experiment: Experiment, data: TrainingData) -> bool:
    """Whether both sides are texts."""

    def has_text(features: Mapping[str, Any]) -> bool:
        return any(isinstance(spec, TextFeature) for spec in features.values())

    return data.histories is None and has_text(experiment.query) and has_text(experiment.item)


def analyzer_of(experiment: Experiment, data: TrainingData) -> Analyzer:
    """How BM25 splits texts: as the experiment says, or by a sample of the items' texts."""
    name = experiment.baselines.analyzer
    if name != "auto":
        return ANALYZERS[name]
    texts = texts_of(data.items, experiment.item)
    drawn = np.random.default_rng(0).permutation(len(texts))[:SAMPLED_TEXTS]
    return choose_analyzer(texts[row] for row in drawn)


@dataclass(frozen=True)
class Settings:
    """What is chosen on validation."""

    k1: float
    b: float


@dataclass(frozen=True)
class TunedBm25:
    """BM25 with the k1 and b that are best on validation.

    Args:
        model: over the items.
        tokens: of the queries in some rows.
        settings: what was chosen.
    """

    model: Bm25
    tokens: Callable[[Rows], list[list[str]]]
    settings: Mapping[str, Any]

    def rank(self, queries: Rows, first: Any = None) -> Rows:
        """Rank the items for query rows (Q,); `first` as of `best_columns`."""
        return self.model.rank(self.tokens(queries), max(CUTOFFS), first)


def tuned_bm25(fitting: Fitting, cut: bool) -> TunedBm25:
    """BM25 for the baselines that are fitted together.

    Args:
        fitting: what it is fitted with.
        cut: over what the towers read, not over the whole texts.
    """
    return fitting.once(f"BM25, cut {cut}", lambda: _tuned(fitting, cut))


def _tuned(fitting: Fitting, cut: bool) -> TunedBm25:
    experiment, data = fitting.experiment, fitting.data
    analyzer = analyzer_of(experiment, data)
    folder = experiment.tower.features_folder
    queries = texts_of(data.queries, experiment.query, cut, folder)

    def over(items: Mapping[str, Sequence[Any]]) -> Bm25:
        return Bm25(analyzer.analyze(texts_of(items, experiment.item, cut, folder)))

    def tokens(rows: Rows) -> list[list[str]]:
        return [*analyzer.analyze(queries[row] for row in rows)]

    model = over(data.items)

    def tune(_: Fitting) -> Settings:  # BM25 learns nothing from pairs, so a refit changes nothing
        tuned = model if data.chosen_with is None else over(data.chosen_with)
        rows, relevant = data.parts["validation"].by_query()
        if len(rows):
            drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:TUNED_ON])
            wanted, metric = [relevant[n] for n in drawn], selection_metric(experiment)
            tuned.tune(tokens(rows[drawn]), lambda ranked: mean(per_query(ranked, wanted))[metric])
        return Settings(tuned.k1, tuned.b)

    name = f"k1 and b of BM25, {analyzer}{'' if cut else ', full texts'}"
    chosen = fitting.choose(name, Settings, tune)
    model.set(chosen.k1, chosen.b)
    settings = {"k1": chosen.k1, "b": chosen.b, "analyzer": str(analyzer)}
    return TunedBm25(model, tokens, settings)


def _fit(fitting: Fitting) -> FittedBaseline:
    tuned = tuned_bm25(fitting, cut=True)
    return FittedBaseline(tuned.rank, tuned.settings)


BASELINE = Baseline("bm25", "BM25", has_texts, _fit, "texts on both sides")
