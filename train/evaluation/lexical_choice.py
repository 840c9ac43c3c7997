"""Which terms and which weighting suit some texts, chosen on validation queries with a lean to the defaults.

The default analyser goes by the language of the items (`choose_analyzer`); texts between prose and code, such
as shell commands, may want another one. Of the settings that are within a standard error of the best one,
that nearest to the default is taken (after Breiman et al. 1984, section 3.4.3): first the analyser, with the
default k1 and b, then b, then k1. On few queries the best setting is luck: by samples of 30 to 500 queries
outside of test, of five data sets, the best setting lost up to .015 of nDCG@10 to the default on the other
queries, and this rule up to .004; by 500 queries both gained up to .020. The metric is nDCG@10, which every
query changes, whatever selects the epoch: by recall the rule gained up to .013.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from twinspire.protos.lexical import (
    ANALYZERS,
    DEFAULT_B,
    DEFAULT_K1,
    Analyzer,
    Weighting,
    WeightingName,
    choose_analyzer,
)
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import Rows, TrainingData, has_text, texts_of
from twinspire.train.evaluation.intervals import Clusters, clusters_of, within_standard_error
from twinspire.train.evaluation.lexical_model import CountedTerms, LexicalModel
from twinspire.train.evaluation.ranking import BaselineFitter, FittedBaseline
from twinspire.train.metrics import CUTOFFS, Floats, per_query

NGRAMS = {  # for TF-IDF; they match parts of words, and need no knowledge of a language
    "1- to 3-grams": Analyzer(ngrams=(1, 2, 3), in_words=True),
    "1- and 2-grams": Analyzer(ngrams=(1, 2), in_words=True),
}
ALL_ANALYZERS: Mapping[str, Analyzer] = {**dict[str, Analyzer](ANALYZERS.items()), **NGRAMS}
# That nearest to the default first.
B = (DEFAULT_B, 0.9, 0.5, 0.25, 0.0)
K1 = (DEFAULT_K1, 1.6, 0.9, 2.4, 0.6)
SAMPLED_TEXTS = 2_000  # of the items, from which the default analyser is chosen
LARGEST = 5_000_000  # characters of the items; n-grams take time and memory for each of them
TUNED_ON = 1_000  # validation queries on which settings are chosen


def has_texts(experiment: Experiment, data: TrainingData) -> bool:
    """Whether both sides are texts."""
    return data.histories is None and has_text(experiment.query) and has_text(experiment.item)


def has_cut_texts(experiment: Experiment, data: TrainingData) -> bool:
    """Whether both sides are texts, of which the towers read a part alone."""
    if not has_texts(experiment, data):
        return False
    sides = ((data.queries, experiment.query), (data.items, experiment.item))
    folder = experiment.tower.features_folder
    return any(texts_of(*side) != texts_of(*side, cut=True, folder=folder) for side in sides)


def candidates(kind: WeightingName, experiment: Experiment, texts: Sequence[str]) -> list[str]:
    """Names of the analysers from which one is chosen for the items' texts, the default first.

    The default is as the experiment says, or by a sample of the texts.
    """
    words: list[str] = [experiment.baselines.analyzer]
    if words == ["auto"]:
        drawn = np.random.default_rng(0).permutation(len(texts))[:SAMPLED_TEXTS]
        chosen = choose_analyzer(texts[row] for row in drawn)
        words[:] = [name for name, analyzer in ANALYZERS.items() if analyzer == chosen][:1]
        words += [name for name in ("english", "characters") if name not in words]
    if kind == "bm25" or sum(map(len, texts)) > LARGEST:
        return words
    return [*words, *NGRAMS] if words[0] == "english" else [*NGRAMS, *words]


@dataclass(frozen=True)
class LexicalSettings:
    """What is chosen on validation; k1 and b are those of BM25."""

    analyzer: str
    k1: float = DEFAULT_K1
    b: float = DEFAULT_B

    def weighting(self, kind: WeightingName) -> Weighting:
        """The weighting of this kind."""
        return Weighting(kind, self.k1, self.b)

    def shown(self, kind: WeightingName) -> dict[str, Any]:
        """By name, what applies to this kind."""
        of_bm25 = {"k1": self.k1, "b": self.b} if kind == "bm25" else {}
        return {**of_bm25, "analyzer": str(ALL_ANALYZERS[self.analyzer])}


def chosen_settings(
    kind: WeightingName,
    names: Sequence[str],
    terms: Callable[[str], CountedTerms],
    queries: Sequence[str],
    relevant: Sequence[Rows],
    clusters: Clusters,
) -> LexicalSettings:
    """The settings that suit Q validation queries; the default ones where there are none.

    Args:
        names: of analysers, the default first.
        terms: the terms of the items by the analyser of a name.
        relevant: the items that each query asks for.
    """
    if not len(queries):
        return LexicalSettings(names[0])

    @cache
    def measured(settings: LexicalSettings) -> Floats:
        model = LexicalModel(terms(settings.analyzer), settings.weighting(kind))
        return per_query(model.rank(queries, 10), relevant)["ndcg_at_10"]

    def best(given: Iterable[LexicalSettings]) -> LexicalSettings:
        return within_standard_error({each: measured(each) for each in given}, clusters)[0]

    found = best(map(LexicalSettings, names))
    if kind == "tfidf":
        return found
    found = best(replace(found, b=b) for b in B)
    return best(replace(found, k1=k1) for k1 in K1)


@dataclass(frozen=True)
class FittedLexical:
    """A lexical model over the items of a data set.

    Args:
        texts: of the data set's queries.
    """

    model: LexicalModel
    texts: Sequence[str]
    settings: LexicalSettings

    def rank(self, queries: Rows) -> Rows:
        """Rank the items for query rows (Q,)."""
        return self.model.rank((self.texts[row] for row in queries), max(CUTOFFS))


def lexical_baseline(kind: WeightingName, cut: bool) -> Callable[[BaselineFitter], FittedBaseline]:
    """The function that fits a lexical model as a baseline; arguments as of `fitted`."""

    def fit(fitter: BaselineFitter) -> FittedBaseline:
        found = fitted(fitter, kind, cut)
        return FittedBaseline(found.rank, found.settings.shown(kind))

    return fit


def fitted(fitter: BaselineFitter, kind: WeightingName, cut: bool) -> FittedLexical:
    """The lexical model of a kind for the baselines that are fitted together.

    Args:
        cut: over what the towers read, not over the whole texts; the same where they read all.
    """
    cut = cut or not fitter.once("cut texts", lambda: has_cut_texts(fitter.experiment, fitter.data))
    return fitter.once(f"{kind}, cut {cut}", lambda: _fitted(fitter, kind, cut))


def _fitted(fitter: BaselineFitter, kind: WeightingName, cut: bool) -> FittedLexical:
    experiment, data = fitter.experiment, fitter.data
    folder = experiment.tower.features_folder
    queries = texts_of(data.queries, experiment.query, cut, folder)
    items = texts_of(data.items, experiment.item, cut, folder)
    before = items if data.chosen_with is None else texts_of(data.chosen_with, experiment.item, cut, folder)
    names = candidates(kind, experiment, before)

    def over(texts: Sequence[str], what: str, name: str) -> CountedTerms:
        """Counted once for BM25 and TF-IDF."""
        made = partial(CountedTerms, ALL_ANALYZERS[name], texts)
        return fitter.once(f"terms of {what}, {name}, cut {cut}", made)

    what = "items" if data.chosen_with is None else "items without held-out texts"

    def choose(_: BaselineFitter) -> LexicalSettings:  # learns nothing from pairs: a refit changes nothing
        rows, relevant = data.parts["validation"].by_query()
        drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:TUNED_ON])
        texts, wanted = [queries[rows[n]] for n in drawn], [relevant[n] for n in drawn]
        clusters = clusters_of(data, "validation")[drawn]
        return chosen_settings(kind, names, partial(over, before, what), texts, wanted, clusters)

    name = f"{kind} by {', '.join(names)}{'' if cut else ', full texts'}"
    chosen = fitter.choose(name, LexicalSettings, choose)
    model = LexicalModel(over(items, "items", chosen.analyzer), chosen.weighting(kind))
    return FittedLexical(model, queries, chosen)
