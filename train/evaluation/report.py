"""Metrics of a model and of the baselines on one part of the split, by the same code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.special

from twinspire.protos.bundle import Score
from twinspire.protos.figures import DIFFERENCE, JUDGED
from twinspire.train.data.training_data import Pairs, Rows, TrainingData
from twinspire.train.evaluation.intervals import Clusters, clusters_of, interval, pair_clusters_of
from twinspire.train.evaluation.label_baselines import FittedLabels
from twinspire.train.evaluation.labelled_metrics import DRAWS, compare
from twinspire.train.evaluation.query_groups import query_groups
from twinspire.train.evaluation.ranking import Ranker, rank_by_scores
from twinspire.train.metrics import (
    HEADLINE,
    MAIN_AND_RECALL,
    OF_COLD_START,
    WITH_INTERVAL,
    Floats,
    Ranked,
    catalogue_metrics,
    mean,
    per_query,
)

Vectors = npt.NDArray[np.float32]


def evaluate_ranking(
    data: TrainingData, part: str, rank: Ranker, others: Mapping[str, Ranker] | None = None
) -> dict[str, float]:
    """Metrics over all queries of a part, with 95 % intervals of the main ones, and those of cold queries.

    Args:
        others: the baselines' rankings; the names of their metrics start with the baseline's name.

    Returns:
        `<metric>`, and `<metric>_low` and `<metric>_high` of the main ones; coverage and popularity where
        queries have histories. `cold_users_<metric>` covers the queries without a history,
        `cold_items_<metric>` the answers without a training interaction, where there are any.
        `<baseline>_difference_<metric>` is the metric of the model less that of a baseline, with the interval
        of the mean over queries. Intervals draw the clusters of the part (`clusters_of`).
        `<group>_<metric>`, `<baseline>_<group>_<metric>` and `<baseline>_difference_<group>_<metric>` are the
        same of the groups of queries (`query_groups`), `<group>_queries` the sum of their weights there.
    """
    queries, relevant = data.parts[part].by_query()
    clusters = clusters_of(data, part)
    groups = query_groups(data, part)
    found: dict[str, float] = {"queries": float(len(queries))}
    found |= {f"{name}_queries": float(weights.sum()) for name, weights in groups.items()}
    own: Mapping[str, Floats] = {}
    for name, ranker in {"": rank, **(others or {})}.items():
        ranked = ranker(queries)
        by_query = per_query(ranked, relevant)
        measured = mean(by_query)
        for metric in WITH_INTERVAL:
            measured |= interval(by_query[metric], clusters).named(metric)
        if data.histories is not None:
            measured |= catalogue_metrics(ranked, data.counts())
        measured |= _cold_metrics(data, queries, ranked, relevant)
        for group, weights in groups.items():
            means = {each: np.average(by_query[each], weights=weights) for each in HEADLINE}
            measured |= {f"{group}_{each}": float(value) for each, value in means.items()}
        if name:
            measured |= _differences(own, by_query, clusters, WITH_INTERVAL)
            for group, weights in groups.items():
                measured |= _differences(own, by_query, clusters, HEADLINE, group, weights)
        else:
            own = by_query
        prefix = f"{name}_" if name else ""
        found |= {prefix + metric: value for metric, value in measured.items()}
    return found


def known(answers: Ranked) -> Ranker:
    """A ranker that gives these answers (Q, K), for the queries that they were made for."""
    return lambda _: answers.astype(np.int64, copy=False)


def evaluate_judged(
    data: TrainingData, rank: Ranker, others: Mapping[str, Ranker] | None = None
) -> dict[str, float]:
    """Metrics over the judged queries, with 95 % intervals; nDCG reads the gains of the judgements.

    Args:
        data: with the values of the served items (`TrainingData.as_served`).
        rank: the model's ranking of these items.
        others: rankings of the baselines; the names of their metrics go on with the baseline's name.

    Returns:
        `judged_<metric>`, `judged_<metric>_low`, `judged_<metric>_high`, `judged_<baseline>_<metric>`, and
        `judged_<baseline>_difference_<metric>` with its ends. Queries of the same text are drawn together.
    """
    judged = data.judged
    assert judged is not None
    found = {f"{JUDGED}queries": float(len(judged.query))}
    clusters, own = judged_clusters_of(data), dict[str, Floats]()
    for name, ranker in {"": rank, **(others or {})}.items():
        by_query = per_query(ranker(judged.query), judged.relevant, judged.gains)
        prefix = f"{JUDGED}{name}_" if name else JUDGED
        for metric in MAIN_AND_RECALL:
            found |= interval(by_query[metric], clusters).named(prefix + metric)
        if name:
            differences = _differences(own, by_query, clusters, MAIN_AND_RECALL)
            found |= {prefix + metric: value for metric, value in differences.items()}
        else:
            own = by_query
    return found


def judged_clusters_of(data: TrainingData) -> Clusters:
    """The clusters of the judged queries: topics of their own, apart from those of the same text."""
    assert data.judged is not None
    return Clusters(np.unique(data.judged.query, return_inverse=True)[1].astype(np.int64), "judged queries")


def _differences(
    own: Mapping[str, Floats],
    other: Mapping[str, Floats],
    clusters: Clusters,
    metrics: Sequence[str],
    group: str = "",
    weights: Floats | None = None,
) -> dict[str, float]:
    """Metrics of the model less those of a baseline on the same queries, with their intervals.

    Args:
        weights: (Q,), of each query in it; None if there is no group.
    """
    found: dict[str, float] = {}
    which = np.arange(len(clusters.of)) if weights is None else np.flatnonzero(weights)
    drawn = clusters if weights is None else replace(clusters[which], weights=weights[which])
    for metric in metrics:
        name = f"{DIFFERENCE}{group}_{metric}" if group else DIFFERENCE + metric
        found |= interval(own[metric][which], drawn, other[metric][which]).named(name)
    return found


def _cold_metrics(
    data: TrainingData, queries: Rows, ranked: Rows, relevant: Sequence[Rows]
) -> dict[str, float]:
    """Metrics of the queries without a history, and of the answers without a training interaction."""
    histories = data.histories
    if histories is None:
        return {}
    found: dict[str, float] = {}
    known = data.counts() > 0
    unseen = [items[~known[items]] for items in relevant]
    groups = {
        "cold_users": (np.flatnonzero(histories.begin[queries] == histories.end[queries]), list(relevant)),
        "cold_items": (np.flatnonzero([len(items) > 0 for items in unseen]), unseen),
    }
    for name, (rows, wanted) in groups.items():
        if len(rows):
            found[f"{name}_queries"] = float(len(rows))
            metrics = mean(per_query(ranked[rows], [wanted[row] for row in rows]))
            found |= {f"{name}_{k}": metrics[k] for k in OF_COLD_START}
    return found


def evaluate_cold_items(data: TrainingData, rank: Ranker) -> dict[str, float]:
    """Metrics of the items that were kept out of training: by content, by popularity, at random.

    Returns:
        `cold_<metric>`, `cold_popularity_<metric>` and `cold_random_<metric>` of the part `cold`; empty if
        the part is.
    """
    queries, relevant = data.parts["cold"].by_query() if len(data.parts["cold"]) else ((), ())
    if not len(queries):
        return {}
    counts = data.counts().astype(np.float32)
    # Ties are broken at random and not by row: items without interactions are all equally popular.
    random = np.random.default_rng(0).random(len(counts)).astype(np.float32)
    rankers = {
        "": rank,
        "popularity_": rank_by_scores(data, np.asarray(counts + random / 2, np.float32)),
        "random_": rank_by_scores(data, random),
    }
    found, clusters = {"cold_queries": float(len(queries))}, clusters_of(data, "cold")
    for name, ranker in rankers.items():
        metrics = per_query(ranker(np.asarray(queries)), relevant)
        found |= {f"cold_{name}{metric}": float(metrics[metric].mean()) for metric in OF_COLD_START}
        if not name:
            found |= interval(metrics["hr_at_50"], clusters).named("cold_hr_at_50")
    return found


def evaluate_labels(
    data: TrainingData,
    part: str,
    inner_products: Callable[[Pairs], Vectors],
    score: Score,
    others: Mapping[str, FittedLabels] | None = None,
    draws: int = DRAWS,
) -> dict[str, float]:
    """How well positive and negative pairs are told apart, where the data has labels.

    Args:
        inner_products: (P,), of some pairs by the model.
        score: how an inner product becomes a score; only a sigmoid is a probability.
        others: the baselines' predictions; the names of their metrics start with the baseline's name.
        draws: as of `compare`.

    Returns:
        As of `compare`: `auc`, `log_loss` and `ece` of a sigmoid, and the same of the others. The AUC is by
        inner products, which tell apart what rounds to the same probability. Empty if the labels are all
        alike.
    """
    pairs = data.parts[part]
    if not pairs.has_both_labels:
        return {}
    products = inner_products(pairs).astype(np.float64)
    predicted = {"": scipy.special.expit(products + score.bias)} if score.kind == "sigmoid" else {}
    predicted |= {name: each.predict(pairs) for name, each in (others or {}).items()}
    found = compare(pairs.is_positive, predicted, pair_clusters_of(data, part), products, draws)
    return {"labelled_pairs": float(len(pairs)), **found}
