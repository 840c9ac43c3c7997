"""Whether a bundle is hybrid, and the weight of BM25 in it: both learned on the validation part.

The dense side is the index as served, with the vectors in their stored precision. BM25 reads the whole texts
of the items that the split evaluates, with k1 and b chosen on validation, too.

Of the weights that are within a standard error of the best, that closest to 1/2 is taken (as Breiman et al.
1984, section 3.4.3, prune trees): with few queries the best one is luck. On the Cranfield collection the best
on 69 queries is .95, and the rule takes .5; on the questions that people have judged they have nDCG@10 of
.325 and .345.

A hybrid is shipped if it is better than the towers alone by recall@10 or the metric of the selection, and
worse by no main metric, where a difference counts if its 95 % interval leaves out 0. The intervals draw the
clusters of the queries, such as modules (`train/evaluation/intervals.py`), and so does the standard error.
Intervals of few queries hold 0 whatever is true. So with less than `FEW_QUERIES` it is enough
that the mean is better by `LEAST_GAIN`, and that of no main metric is worse. k1, b and the weight are chosen
on the same queries, so what is measured on them is a little too good; the test part tells.

Without enough validation queries there is a hybrid only if the experiment asks for one: it ranks by
reciprocal ranks, which need no weight, and BM25 has its usual parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from export import ann
from export.evaluation.hybrid_ranking import HybridRanking
from export.hybrid.postings import postings_of
from protos.bundle import Hybrid, Score
from protos.errors import GateRefused
from protos.features import TextFeature
from protos.hybrid.fusion import BM25_ALONE, Fusion
from protos.hybrid.lexical_index import LexicalIndex
from protos.lexical import Analyzer
from train.config import Experiment
from train.data.training_data import TrainingData, texts_of
from train.evaluation.baselines.bm25 import TUNED_ON, analyzer_of
from train.evaluation.bm25 import Bm25
from train.evaluation.intervals import Clusters, Interval, clusters_of, interval, within_standard_error
from train.evaluation.metrics import mean, metric_label, per_query
from train.evaluation.ranking import selection_metric

Vectors = npt.NDArray[np.float32]
Metrics = dict[str, npt.NDArray[np.float64]]
WEIGHTS = tuple(n / 20 for n in range(1, 20))
MAIN = ("recall_at_10", "mrr_at_10", "ndcg_at_10")  # none of them may be worse
MIN_QUERIES = 50  # fewer tell nothing
LEAST_CANDIDATES = 32
LEAST_GAIN = 0.01  # in the mean of a metric
FEW_QUERIES = 1_000  # fewer cannot tell a difference of `LEAST_GAIN` from chance
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


def choose(
    experiment: Experiment,
    data: TrainingData,
    index: ann.SearchIndex,
    items: Vectors,
    queries: Vectors,
    score: Score,
    console: Console,
) -> Choice:
    """Learn the weight, measure, and decide.

    Args:
        data: of the split.
        index: over the evaluated items, as served.
        items: their vectors, float32 (N, D).
        queries: vectors of the validation queries, (Q, D), in the order of `by_query`.
        score: of the bundle.

    Raises:
        GateRefused: the experiment asks for a hybrid, and there can be none.
    """
    enabled = experiment.hybrid.enabled
    reason = _inapplicable(experiment, data, score)
    has_few_queries = len(queries) < MIN_QUERIES
    if has_few_queries and enabled is not True:
        reason = reason or f"{len(queries)} validation queries tell too little, expected {MIN_QUERIES}"
    if reason:
        if enabled is True:
            raise GateRefused(f"hybrid.enabled is true, but there can be no hybrid: {reason}")
        return Choice(None, None, False, {"shipped": False, "why": reason})
    if has_few_queries:
        return _by_ranks(experiment, data, index, items, len(queries))
    with console.status("BM25 beside the vectors, on validation"):
        return _Learned(experiment, data, index, items, queries).choice()


def _inapplicable(experiment: Experiment, data: TrainingData, score: Score) -> str:
    """Why there can be no hybrid; empty if there can."""
    sides = (experiment.query, experiment.item)
    if experiment.hybrid.enabled is False:
        return "hybrid.enabled is false"
    if not all(any(isinstance(spec, TextFeature) for spec in side.values()) for side in sides):
        return "queries and items must both have a text"
    if data.histories is not None:
        return "queries are histories"
    if score.kind != "cosine":
        return f"scores are of the kind {score.kind}, not cosines"
    return ""


def _by_ranks(
    experiment: Experiment, data: TrainingData, index: ann.SearchIndex, items: Vectors, queries: int
) -> Choice:
    """A hybrid by reciprocal ranks."""
    analyzer = analyzer_of(experiment, data)
    model = Bm25(analyzer.analyze(texts_of(data.items, experiment.item)))
    hybrid = replace(_parameters(experiment, analyzer, model, index), method="reciprocal_ranks")
    fusion = Fusion(LexicalIndex(postings_of(model), hybrid), items)
    why = f"{queries} validation queries are too few to learn a weight, so ranks are added (RRF)"
    report = {"shipped": True, "why": why, "method": hybrid.method, "k1": hybrid.k1, "b": hybrid.b}
    report |= {"analyzer": str(analyzer), "validation_queries": queries}
    return Choice(hybrid, HybridRanking(index, items, fusion), True, report)


def _parameters(experiment: Experiment, analyzer: Analyzer, model: Bm25, index: ann.SearchIndex) -> Hybrid:
    """The parameters of a hybrid before its weight is known."""
    config = experiment.hybrid
    dense_candidates = config.dense_candidates or max(LEAST_CANDIDATES, index.parameters.ef_search // 2)
    return Hybrid(
        analyzer=analyzer,
        k1=model.k1,
        b=model.b,
        mean_length=model.mean_length or 1.0,
        weight=0.0,
        dense_candidates=dense_candidates,
        lexical_candidates=config.lexical_candidates,
        most_postings=config.most_postings,
    )


class _Learned:
    """Learns the weight on validation, and measures towers, BM25 and both there."""

    def __init__(
        self,
        experiment: Experiment,
        data: TrainingData,
        index: ann.SearchIndex,
        items: Vectors,
        queries: Vectors,
    ) -> None:
        self.experiment, self.metric = experiment, selection_metric(experiment)
        rows, relevant = data.parts["validation"].by_query()
        drawn = np.random.default_rng(0).permutation(len(rows))[: experiment.hybrid.queries]
        texts = texts_of(data.queries, experiment.query, cut=True)
        self.texts, self.relevant = [texts[rows[n]] for n in drawn], [relevant[n] for n in drawn]
        self.vectors, self.clusters = queries[drawn], clusters_of(data, "validation")[drawn]
        analyzer = analyzer_of(experiment, data)
        model = Bm25(analyzer.analyze(texts_of(data.items, experiment.item)))
        self._tune(model, [*analyzer.analyze(self.texts[:TUNED_ON])])
        self.hybrid = _parameters(experiment, analyzer, model, index)
        self.index, self.items, self.postings = index, items, postings_of(model)
        self.ranking = self._ranking(self.hybrid)

    def _tune(self, model: Bm25, queries: Sequence[Sequence[str]]) -> None:
        wanted = self.relevant[: len(queries)]
        model.tune(queries, lambda ranked: mean(per_query(ranked, wanted))[self.metric])

    def _ranking(self, hybrid: Hybrid) -> HybridRanking:
        return HybridRanking(self.index, self.items, Fusion(LexicalIndex(self.postings, hybrid), self.items))

    def choice(self) -> Choice:
        candidates = self.ranking.candidates(self.vectors, K)
        measured: dict[float, Metrics] = {}
        for weight in (*WEIGHTS, BM25_ALONE):
            ranked = self.ranking.rank(self.vectors, self.texts, K, weight, candidates)
            measured[weight] = per_query(ranked, self.relevant)
        nothing = [np.empty(0, np.int64)] * len(self.vectors)
        dense = per_query(self.index.search(self.vectors, K, nothing), self.relevant)
        curve = {weight: measured[weight][self.metric] for weight in WEIGHTS}
        best = _weight(curve, self.clusters)
        hybrid = replace(self.hybrid, weight=best)
        rows = {"dense": dense, "lexical": measured[BM25_ALONE], "hybrid": measured[best]}
        differences = {
            name: interval(measured[best][name], self.clusters, dense[name])
            for name in _compared(self.metric)
        }
        wins, why = _verdict(differences, self.metric, self.clusters)
        shipped = wins or self.experiment.hybrid.enabled is True
        if shipped and not wins:
            why = f"hybrid.enabled is true, although {why}"
        report = {
            "shipped": shipped,
            "why": why,
            "method": hybrid.method,
            "weight": best,
            "k1": hybrid.k1,
            "b": hybrid.b,
            "analyzer": str(hybrid.analyzer),
            "validation_queries": len(self.texts),
            "drawn": str(self.clusters),
            "validation": {
                name: {each: float(row[each].mean()) for each in MAIN} for name, row in rows.items()
            },
            "differences": {name: asdict(found) for name, found in differences.items()},
            "weights": {f"{weight:g}": float(values.mean()) for weight, values in curve.items()},
        }
        return Choice(hybrid, self._ranking(hybrid), shipped, report)


def _weight(curve: Mapping[float, npt.NDArray[np.float64]], clusters: Clusters) -> float:
    """Of the weights that are within a standard error of the best, that closest to 1/2.

    Args:
        curve: weight -> a metric of each query.
        clusters: of the queries.
    """
    return min(within_standard_error(curve, clusters), key=lambda weight: abs(weight - 0.5))


def _compared(metric: str) -> Sequence[str]:
    return MAIN if metric in MAIN else (*MAIN, metric)


def _verdict(differences: Mapping[str, Interval], metric: str, clusters: Clusters) -> tuple[bool, str]:
    """Whether a hybrid is shipped, and why, in words."""

    def shown(name: str) -> str:
        found = differences[name].text(clusters)
        return f"{metric_label(name)} {found} on validation against the towers alone"

    worse = [name for name, found in differences.items() if found.high < 0]
    if worse:
        return False, f"it is worse: {shown(worse[0])}"
    wanted = [*dict.fromkeys((metric, "recall_at_10"))]
    better = [name for name in wanted if differences[name].low > 0]
    if better:
        return True, shown(better[0])
    queries = len(clusters.of)
    if queries < FEW_QUERIES and min(found.mean for found in differences.values()) >= 0:
        better = [name for name in wanted if differences[name].mean >= LEAST_GAIN]
        if better:
            return True, f"{shown(better[0])}; on {queries:,} queries this is likely, not certain"
    return False, f"there is no difference beyond chance: {shown(metric)}"
