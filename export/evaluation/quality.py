"""Quality of what a bundle holds: the test split, and the judged queries, by its ONNX towers and its terms.

The vectors are searched exactly, also where the service searches a graph, because the split may evaluate
other texts of the items than are served, and a graph over these would be another one. The share of the
nearest items that the served graph finds is measured on its own (`ann_recall_at_10`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.export import ann
from twinspire.export.encoding.encoding import encode_all
from twinspire.export.encoding.records import rows_of
from twinspire.export.evaluation.hybrid_ranking import HybridRanking
from twinspire.export.onnx.runtimes import Encode
from twinspire.protos.bundle import Score
from twinspire.protos.features import TowerInputs
from twinspire.protos.figures import DIFFERENCE, EXACT, JUDGED
from twinspire.protos.hybrid.fusion import BM25_ALONE
from twinspire.protos.nearest.search import paired_products
from twinspire.train.data.training_data import TrainingData, texts_of
from twinspire.train.evaluation.baselines import LABELS, baselines
from twinspire.train.evaluation.intervals import Interval, drawn_in
from twinspire.train.evaluation.label_baselines import LABEL_BASELINES, item_means
from twinspire.train.evaluation.ranking import BaselineFitter
from twinspire.train.evaluation.report import (
    evaluate_cold_items,
    evaluate_judged,
    evaluate_labels,
    evaluate_ranking,
    judged_clusters_of,
    known,
)
from twinspire.train.metrics import (
    CUTOFFS,
    DRAWN,
    DRAWN_PAIRS,
    OF_LABELS,
    as_higher_is_better,
    metric_label,
)
from twinspire.train.progress import PROGRESS

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
K = max(CUTOFFS)
FIRST = 10  # items in a typical request
SEARCHED = "searched"  # how the vectors were searched; bundles of before do not say it: through a graph
REFITTED = "refitted"  # whether the towers have learned from the validation pairs, too


@dataclass(frozen=True)
class ServedModel:
    """A model as the service runs it, but for its index.

    Args:
        query: encoder of the query tower.
        inputs: of the query tower.
        items: vectors (N, D) of all items.
        hybrid: ranks by BM25 beside the vectors; None if the service does not.
    """

    query: Encode
    inputs: TowerInputs
    items: Vectors
    hybrid: HybridRanking | None = None


def encode_queries(
    encode: Encode, inputs: TowerInputs, data: TrainingData, rows: Rows, title: str
) -> Vectors:
    """Encode some queries of a data set: (Q, D)."""
    return encode_all(encode, inputs, rows_of(data.queries, rows), title)


def ranked(data: TrainingData, model: ServedModel) -> Rows:
    """The ranking of each test query: (Q, K) item rows, best first."""
    rows, _ = data.parts["test"].by_query()
    return _served(data, model, rows)


def rankings(
    fitter: BaselineFitter, model: ServedModel, rows: Rows, tried: HybridRanking | None = None
) -> dict[str, Rows]:
    """What the model and the baselines answer to some queries: (Q, K) item rows, best first.

    Args:
        fitter: of the baselines, over the data.
        rows: of the queries.
        tried: a hybrid that is not served, to be measured beside the model.

    Returns:
        `""` -> as the bundle ranks, name -> of each baseline. Of a hybrid, `exact` -> the towers alone and
        `lexical` -> BM25 alone; of one that is not served, `hybrid` -> both and `lexical`.
    """
    data = fitter.data
    vectors = encode_queries(model.query, model.inputs, data, rows, "queries")
    found = {"": _search(data, model, vectors, rows)}
    ranking = tried or model.hybrid
    if ranking is not None:
        texts = query_texts(data, model.inputs, rows)
        if tried is None:
            found[EXACT] = _nearest(data, model, vectors, rows)
        else:
            found["hybrid"] = _fused(tried, vectors, texts)
        if ranking.fusion.index.has_words:
            found["lexical"] = ranking.rank(vectors, texts, K, BM25_ALONE)
    ranks = baselines(fitter.experiment, data, PROGRESS, fitter)
    return found | {name: rank(rows) for name, rank in ranks.items()}


def evaluate(
    fitter: BaselineFitter,
    model: ServedModel,
    score: Score,
    before: Mapping[str, Any],
    tried: HybridRanking | None = None,
) -> tuple[dict[str, Any], dict[str, Rows], Vectors | None]:
    """Measure the test split.

    Args:
        fitter, tried: as of `rankings`.
        before: metrics by their names in code, of the run that trained the towers, or of a bundle's manifest:
            baselines that predict labels are not fitted again, for that would take minutes.

    Returns:
        The metrics, of which those of other rankings have their name in `rankings` as a prefix; these
        rankings; and the inner products of the test pairs, (P,), None if these do not have both labels.
    """
    experiment, data = fitter.experiment, fitter.data
    queries, _ = data.parts["test"].by_query()
    answers, products = rankings(fitter, model, queries, tried), inner_products(data, model)
    rest = dict(answers)
    own = rest.pop("")
    others = {name: known(rows) for name, rows in rest.items()}
    metrics: dict[str, Any] = {} if products is None else _of_label_baselines(before)
    metrics |= evaluate_ranking(data, "test", known(own), others)
    metrics |= evaluate_cold_items(data, partial(_served, data, model))
    if products is not None:
        means = {"itemmean": item_means(data)} if experiment.baselines.measures("itemmean") else {}
        metrics |= evaluate_labels(data, "test", lambda _: products, score, means)
    metrics |= {"queries": len(queries), **drawn_in(data, "test")}
    metrics |= {SEARCHED: EXACT, REFITTED: data.before_refit is not None}
    metrics["verdict"] = verdict(metrics, experiment.training.selection)
    return metrics, answers, products


def inner_products(data: TrainingData, model: ServedModel) -> Vectors | None:
    """(P,): the inner product of each test pair; None if the pairs do not have both labels."""
    pairs = data.parts["test"]
    if not pairs.has_both_labels:
        return None
    distinct, query = np.unique(pairs.query, return_inverse=True)
    vectors = encode_queries(model.query, model.inputs, data, distinct, "queries")
    return paired_products(vectors[query], model.items[pairs.item])


def _of_label_baselines(metrics: Mapping[str, Any]) -> dict[str, float]:
    """AUC and log loss of the baselines that predict labels, as far as they are known, and by how much the
    towers are better, with the ends of the interval.
    """
    ends = ("", "_gain", "_gain_low", "_gain_high")
    names = [f"{each.name}_{metric}{end}" for each in LABEL_BASELINES for metric in OF_LABELS for end in ends]
    return {name: float(metrics[name]) for name in names if name in metrics}


def evaluate_judged_queries(fitter: BaselineFitter, model: ServedModel, judged: Rows) -> dict[str, Any]:
    """Metrics on the judged queries, all with the prefix `judged_`.

    Args:
        fitter: over the data with the values of the served items (`TrainingData.as_served`).
        model: with the vectors of these items.
        judged: rows of the queries.
    """
    data = fitter.data
    rankers = {name: known(rows) for name, rows in rankings(fitter, model, judged).items()}
    metrics: dict[str, Any] = dict(evaluate_judged(data, rankers.pop(""), rankers))
    metrics[f"{JUDGED}{DRAWN}"] = str(judged_clusters_of(data))
    own = {name.removeprefix(JUDGED): value for name, value in metrics.items()}
    queries = int(metrics[f"{JUDGED}queries"])
    return metrics | {f"{JUDGED}queries": queries, f"{JUDGED}verdict": verdict(own, "ndcg_at_10")}


def query_texts(data: TrainingData, inputs: TowerInputs, rows: Rows) -> list[str]:
    """The texts of some queries, as far as the query tower reads them."""
    queries = {name: [data.queries[name][row] for row in rows] for name in inputs.features}
    return texts_of(queries, inputs.features, cut=True)


def _served(data: TrainingData, model: ServedModel, rows: Rows) -> Rows:
    queries = encode_queries(model.query, model.inputs, data, rows, "queries")
    return _search(data, model, queries, rows)


def _search(data: TrainingData, model: ServedModel, queries: Vectors, rows: Rows) -> Rows:
    """The ranking for the vectors (Q, D), or (Q, K * D), of some queries."""
    if model.hybrid is not None:
        return _fused(model.hybrid, queries, query_texts(data, model.inputs, rows))
    return _nearest(data, model, queries, rows)


def _nearest(data: TrainingData, model: ServedModel, queries: Vectors, rows: Rows) -> Rows:
    """The ranking by the vectors alone."""
    # A refreshed catalogue has no vectors of deleted items, which a history may hold.
    seen = [each[each < len(model.items)] for each in data.seen(rows)]
    return ann.exact(queries, model.items, K, seen)


def _fused(hybrid: HybridRanking, queries: Vectors, texts: Sequence[str]) -> Rows:
    found = hybrid.candidates(queries, K)
    first, more = (hybrid.rank(queries, texts, k, candidates=found) for k in (FIRST, K))
    return continued(first, more)


def continued(first: Rows, more: Rows) -> Rows:
    """The items of a request for a few, then the remaining items of a request for many.

    A hybrid reads more candidates for many items, so its first few are better than for a request for few.
    """
    found = np.full_like(more, -1)
    found[:, : first.shape[1]] = first
    for row, head, tail in zip(found, first, more, strict=True):
        rest = tail[~np.isin(tail, head)][: len(row) - len(head)]
        row[len(head) : len(head) + len(rest)] = rest
    return found


def verdict(metrics: Mapping[str, Any], metric: str) -> str:
    """A sentence on whether the model or the best baseline is better beyond chance.

    Args:
        metric: to compare by; nDCG@10 if the test split does not have it, as AUC without negatives.
    """
    metric = metric if metric in metrics else "ndcg_at_10"
    best, label = _best_baseline(metrics, metric), metric_label(metric)
    if not best:
        return f"{label} {metrics[metric]:.3f}, with no baseline to compare it with"
    model, baseline = metrics[metric], metrics[f"{best}_{metric}"]
    lead = lead_over_best(metrics, metric)
    if lead is None:
        return f"{label} {model:.3f}, {LABELS[best]} {baseline:.3f}, without an interval of the difference"
    drawn = metrics.get(DRAWN, "single queries")
    figures = lead.text(str(metrics.get(DRAWN_PAIRS, drawn) if metric in OF_LABELS else drawn))
    if lead.is_better:
        return f"better than {LABELS[best]} at {label}: {model:.3f} against {baseline:.3f}, {figures}"
    if lead.is_worse:
        return f"better baseline: {LABELS[best]}, {label} {baseline:.3f} against {model:.3f}, {figures}"
    return f"{lead.tie} {LABELS[best]} at {label}: {model:.3f}, {baseline:.3f}, {figures}"


def lead_over_best(metrics: Mapping[str, Any], metric: str) -> Interval | None:
    """By how much the model is better than the best baseline; None without a baseline or its interval."""
    best = _best_baseline(metrics, metric)
    name = f"{best}_{metric}_gain" if metric in OF_LABELS else f"{best}_{DIFFERENCE}{metric}"
    found = [metrics.get(f"{name}{end}") for end in ("", "_low", "_high")]
    return None if None in found else Interval(*(float(each) for each in found if each is not None))


def _best_baseline(metrics: Mapping[str, Any], metric: str) -> str:
    """The name of the baseline that is best by a metric; empty if there is none."""
    beside = {name: metrics[f"{name}_{metric}"] for name in LABELS if f"{name}_{metric}" in metrics}
    return max(beside, key=lambda name: as_higher_is_better(metric, float(beside[name])), default="")
