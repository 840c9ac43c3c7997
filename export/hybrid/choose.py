"""Whether a bundle is hybrid, by which lexical model and with which weight: learned on the validation part.

The dense side is exact search over the vectors. The lexical side reads the
whole texts of the items that the split evaluates. Its candidates are the lexical baselines, BM25 and TF-IDF,
each with the analyser and the parameters that validation prefers (`train/evaluation/lexical_choice.py`).

Of the candidates and weights that are within a standard error of the best, BM25 is taken before TF-IDF, and
the weight closest to 1/2 (as Breiman et al. 1984, section 3.4.3, prune trees): with few queries the best one
is luck. On the Cranfield collection the best on 69 queries is .95, and the rule takes .5; on the questions
that people have judged they have nDCG@10 of .325 and .345.

What the choice is worth is measured by cross-validation: each tenth of the clusters of queries, such as
modules, is ranked by the candidate and the weight that the other queries choose. So few queries do not look
better than they are. Only the analyser, k1 and b are chosen on all of them; the test part tells.

A hybrid is shipped if it is better than the towers alone by recall@10, nDCG@10 or the metric of the
selection, and worse by no main metric, where a difference counts if its 95 % interval leaves out 0. nDCG@10
decides where both find nearly every item, so that recall@10 cannot rise. The intervals draw the same clusters
(`train/evaluation/intervals.py`), and so does the standard error. Intervals of few queries hold 0 whatever is
true. So with less than `FEW_QUERIES` it is enough that the mean of recall@10 or of the metric of the
selection is better by `LEAST_GAIN`, and that of no main metric is worse.

Where queries come again, as in a click log, items that were clicked after the same query get a prior
(`priors.py`). Its weight is learned last, beside the terms as chosen, or without terms if they do not help.

With fewer than `MIN_QUERIES` queries, or one cluster alone, there is a hybrid only if the experiment asks for
one: BM25 then has the weight 1/2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.export import ann
from twinspire.export.evaluation.hybrid_ranking import Candidates, HybridRanking
from twinspire.export.hybrid.postings import postings_of, with_priors, without_words
from twinspire.export.hybrid.priors import Metrics, PriorChoice, choose_prior, cross_validated, priors_of
from twinspire.protos.bundle import REMOTE_KINDS, Hybrid, Score
from twinspire.protos.errors import GateRefused
from twinspire.protos.features import TextFeature
from twinspire.protos.hybrid.fusion import BM25_ALONE, Fusion
from twinspire.protos.hybrid.lexical_index import LexicalIndex, Postings
from twinspire.protos.lexical import WeightingName
from twinspire.train.config import Experiment
from twinspire.train.data.training_data import TrainingData, texts_of
from twinspire.train.evaluation.intervals import (
    Clusters,
    Interval,
    clusters_of,
    interval,
    within_standard_error,
)
from twinspire.train.evaluation.lexical_choice import fitted
from twinspire.train.evaluation.lexical_model import LexicalModel
from twinspire.train.evaluation.query_groups import repeated_share
from twinspire.train.evaluation.ranking import BaselineFitter, selection_metric
from twinspire.train.metrics import MAIN, metric_label, per_query
from twinspire.train.progress import PROGRESS

Vectors = npt.NDArray[np.float32]
Setting = tuple[WeightingName, float]  # of the lexical side, and its weight
KINDS: tuple[WeightingName, ...] = ("bm25", "tfidf")  # the one that is preferred first
HALF = 0.5  # the weight that is taken where others are no better
WEIGHTS = tuple(n / 20 for n in range(1, 20))
MIN_QUERIES = 10  # of validation; fewer tell nothing
QUERIES = 3_000  # of validation that are read, at most
LEAST_CANDIDATES = (
    32  # of the dense search; half of the index's `ef_search`, which costs no time, if it is more
)
LEXICAL_CANDIDATES = 50
MOST_POSTINGS = 4_096  # that are read for candidates, of a query's rarest terms first
MOST_WORDS, MOST_NGRAMS = 32, 256  # distinct terms of a query that count, the rarest ones
LEAST_GAIN = 0.01  # in the mean of a metric
# Fewer cannot tell a difference of `LEAST_GAIN` from chance; a mean of a standard error is taken then. Of two
# rankings that are alike, about one in eight is shipped by that.
FEW_QUERIES, FEW_CLUSTERS = 1_000, 50
K = 10


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Args:
        hybrid: its parameters; the mean length is that of the evaluated texts. None if it does not apply.
        ranking: of the evaluated items by it; None likewise.
        shipped: whether the bundle gets it.
        report: `shipped`, `why`, and what was measured on validation.
    """

    hybrid: Hybrid | None
    ranking: HybridRanking | None
    shipped: bool
    report: dict[str, Any]


def choose(fitter: BaselineFitter, ef_search: int, items: Vectors, queries: Vectors, score: Score) -> Choice:
    """Learn the weight, measure, and decide.

    Args:
        fitter: of the baselines, over the data of the split; it has, or gets, the lexical models.
        ef_search: of the index; half of it is as many candidates as its search costs anyway.
        items: vectors of the evaluated items, float32 (N, D).
        queries: vectors of the validation queries, (Q, D), in the order of `by_query`.
        score: of the bundle.

    Raises:
        GateRefused: the experiment asks for a hybrid, and there can be none.
    """
    experiment, data = fitter.experiment, fitter.data
    enabled = experiment.hybrid.enabled
    reason = _inapplicable(experiment, data, score)
    clusters = clusters_of(data, "validation")
    has_few = len(queries) < MIN_QUERIES or len(clusters) < 2
    if has_few and enabled is not True:
        few = f"{len(queries)} validation queries of {clusters} tell too little"
        reason = reason or f"{few}, expected {MIN_QUERIES} of two or more"
    if reason:
        if enabled is True:
            raise GateRefused(f"hybrid.enabled is true, but there can be no hybrid: {reason}")
        return Choice(None, None, False, {"shipped": False, "why": reason})
    with PROGRESS.status("terms beside the vectors, on validation"):
        learned = _Learned(fitter, ef_search, items, queries)
        return learned.by_default() if has_few else learned.choice()


def _inapplicable(experiment: Experiment, data: TrainingData, score: Score) -> str:
    """Why there can be no hybrid; empty if there can."""
    sides = (experiment.query, experiment.item)
    if experiment.hybrid.enabled is False:
        return "hybrid.enabled is false"
    if (kind := experiment.index.kind) in REMOTE_KINDS:
        return f"a service has no postings of items that are on another server (index.kind is {kind!r})"
    if not all(any(isinstance(spec, TextFeature) for spec in side.values()) for side in sides):
        return "queries and items must both have a text"
    if data.histories is not None:
        return "queries are histories"
    if score.kind != "cosine":
        return f"scores are of the kind {score.kind}, not cosines"
    return ""


class _Learned:
    """Learns the lexical model and the weight on validation, and measures towers, terms and both there."""

    def __init__(self, fitter: BaselineFitter, ef_search: int, items: Vectors, queries: Vectors) -> None:
        self.experiment, self.data = experiment, data = fitter.experiment, fitter.data
        self.metric = selection_metric(experiment)
        self.ef_search, self.items = ef_search, items
        rows, relevant = data.parts["validation"].by_query()
        drawn = np.random.default_rng(0).permutation(len(rows))[:QUERIES]
        texts = texts_of(data.queries, experiment.query, cut=True)
        self.texts, self.relevant = [texts[rows[n]] for n in drawn], [relevant[n] for n in drawn]
        self.vectors, self.clusters = queries[drawn], clusters_of(data, "validation")[drawn]
        self.rankings: dict[WeightingName, HybridRanking] = {}
        for kind in KINDS:
            model = fitted(fitter, kind, cut=False).model
            self.rankings[kind] = self._ranking(self._parameters(model), postings_of(model))

    def _parameters(self, model: LexicalModel) -> Hybrid:
        """The parameters of a hybrid before its weight is known."""
        analyzer = model.terms.analyzer
        return Hybrid(
            analyzer=analyzer,
            k1=model.weighting.k1,
            b=model.weighting.b,
            mean_length=model.terms.mean_length or 1.0,
            weight=0.0,
            dense_candidates=max(LEAST_CANDIDATES, self.ef_search // 2),
            lexical_candidates=LEXICAL_CANDIDATES,
            most_postings=MOST_POSTINGS,
            most_terms=MOST_NGRAMS if analyzer.in_words else MOST_WORDS,
            scoring=model.weighting.kind,
        )

    def _ranking(self, hybrid: Hybrid, postings: Postings) -> HybridRanking:
        return HybridRanking(self.items, Fusion(LexicalIndex(postings, hybrid), self.items))

    def _with(self, kind: WeightingName, **changes: Any) -> HybridRanking:
        """The ranking by a kind, with other parameters."""
        index = self.rankings[kind].fusion.index
        return self._ranking(replace(index.hybrid, **changes), index.postings)

    def by_default(self) -> Choice:
        """A hybrid whose weight was not learned."""
        ranking = self._with(KINDS[0], weight=HALF)
        few = f"{len(self.texts)} validation queries of {self.clusters}"
        why = f"{few} are too few to learn another weight"
        return Choice(ranking.fusion.hybrid, ranking, True, self._report(ranking, shipped=True, why=why))

    def choice(self) -> Choice:
        """A hybrid by the weight and the lexical model that are best, and whether it is shipped."""
        found = self.rankings[KINDS[0]].candidates(self.vectors, K)
        measured: dict[Setting, Metrics] = {}
        for kind, each in self.rankings.items():
            ranked = each.rank_each(self.vectors, self.texts, K, (*WEIGHTS, BM25_ALONE), found)
            measured |= {(kind, weight): per_query(rows, self.relevant) for weight, rows in ranked.items()}
        dense = per_query(ann.exact(self.vectors, self.items, K), self.relevant)
        hybrids = {setting: each for setting, each in measured.items() if setting[1] in WEIGHTS}
        curve = {setting: each[self.metric] for setting, each in hybrids.items()}
        kind, weight = _preferred(curve, self.clusters)
        held_out = cross_validated(hybrids, self.metric, self.clusters, _preferred)
        differences = {
            name: interval(held_out[name], self.clusters, dense[name]) for name in _compared(self.metric)
        }
        wins, why = _verdict(differences, self.metric, self.clusters)
        shipped = wins or self.experiment.hybrid.enabled is True
        if shipped and not wins:
            why = f"hybrid.enabled is true, although {why}"
        ranking = self._with(kind, weight=weight)
        rows = {"dense": dense, "lexical": measured[kind, BM25_ALONE], "hybrid": held_out}
        with_prior, prior = self._prior(ranking if shipped else self._with(kind, weight=0.0), found)
        if prior.hybrid.prior_weight:
            ranking, shipped, rows["hybrid"] = with_prior, True, prior.metrics
        report = self._report(ranking, shipped, why) | {
            "validation": {
                name: {each: float(row[each].mean()) for each in MAIN} for name, row in rows.items()
            },
            "differences": {name: asdict(found) for name, found in differences.items()},
            "weights": {f"{each:g}": float(curve[kind, each].mean()) for each in WEIGHTS},
        }
        return Choice(ranking.fusion.hybrid, ranking, shipped, report | prior.report)

    def _report(self, ranking: HybridRanking, shipped: bool, why: str) -> dict[str, Any]:
        hybrid = ranking.fusion.hybrid
        return {
            "shipped": shipped,
            "why": why,
            "weight": hybrid.weight,
            "scoring": hybrid.scoring,
            "k1": hybrid.k1,
            "b": hybrid.b,
            "analyzer": str(hybrid.analyzer),
            "validation_queries": len(self.texts),
            "drawn": str(self.clusters),
        }

    def _prior(
        self, plain: HybridRanking, candidates: Sequence[Candidates]
    ) -> tuple[HybridRanking, PriorChoice]:
        """The ranking with the weight that a prior gets, 0 if it does not help, and what was measured."""
        index = plain.fusion.index
        share = repeated_share(self.data, "validation")
        if not share:
            return plain, PriorChoice(index.hybrid, {}, {})
        words = index.postings if index.hybrid.weight else without_words(index.postings)
        postings = with_priors(words, priors_of(self.experiment, self.data))

        def measure(hybrid: Hybrid) -> Metrics:
            ranked = self._ranking(hybrid, postings).rank(self.vectors, self.texts, K, None, candidates)
            return per_query(ranked, self.relevant)

        found = choose_prior(index.hybrid, measure, _compared(self.metric), self.clusters)
        found.report["repeated_share"] = share
        return self._ranking(found.hybrid, postings), found


def _preferred(curve: Mapping[Setting, npt.NDArray[np.float64]], clusters: Clusters) -> Setting:
    """Of the settings that are within a standard error of the best, the first kind, closest to 1/2.

    Args:
        curve: setting -> a metric of each query.
        clusters: of the queries.
    """
    close = within_standard_error(curve, clusters)
    return min(close, key=lambda setting: (KINDS.index(setting[0]), abs(setting[1] - HALF)))


def _compared(metric: str) -> Sequence[str]:
    return MAIN if metric in MAIN else (*MAIN, metric)


def _verdict(differences: Mapping[str, Interval], metric: str, clusters: Clusters) -> tuple[bool, str]:
    """Whether a hybrid is shipped, and why, in words."""

    def shown(name: str) -> str:
        found = differences[name].text(clusters)
        return f"{metric_label(name)} {found} on validation against the towers alone"

    worse = [name for name, found in differences.items() if found.is_worse]
    if worse:
        return False, f"it is worse: {shown(worse[0])}"
    wanted = [*dict.fromkeys((metric, "recall_at_10"))]
    better = [name for name in dict.fromkeys((*wanted, "ndcg_at_10")) if differences[name].is_better]
    if better:
        return True, shown(better[0])
    queries = len(clusters.of)
    is_few = queries < FEW_QUERIES or len(np.unique(clusters.of)) < FEW_CLUSTERS
    if is_few and min(found.mean for found in differences.values()) >= 0:
        better = [
            name
            for name in wanted
            if differences[name].mean >= max(LEAST_GAIN, differences[name].standard_error)
        ]
        if better:
            return True, f"{shown(better[0])}; on {queries:,} queries this is likely, not certain"
    return False, f"there is no difference beyond chance: {shown(metric)}"
