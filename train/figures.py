"""The figures of one part of the split, for a model and for every baseline beside it, by the same code."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score

from protos.bundle import Score
from train.baselines import Rank, by_scores
from train.metrics import catalogue_metrics, interval, mean, per_query
from train.problem import Pairs, Problem

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
WITH_INTERVAL = ("recall_at_10", "recall_at_20", "hr_at_10", "ndcg_at_10", "mrr_at_10")
SMOOTHING = 5.0  # interactions of the mean that an item's own mean is drawn towards


def figures(
    problem: Problem, part: str, rank: Rank, others: Mapping[str, Rank] | None = None
) -> dict[str, float]:
    """Metrics over all queries of a part, 95 % intervals of the main ones, and rows of the cold.

    Args:
        part: of the split.
        rank: the model's ranking of some queries.
        others: the baselines' rankings; their figures carry the name first.

    Returns:
        `<metric>`, `<metric>_low`, `<metric>_high` of the main ones; of histories also coverage and
        popularity; `cold_users_` and `cold_items_` before the metrics of queries without a history, and
        of those answers that training has not seen, where there are any.
    """
    queries, relevant = problem.parts[part].by_query()
    found: dict[str, float] = {"queries": float(len(queries))}
    for name, each in {"": rank, **(others or {})}.items():
        ranked = each(queries)
        prefix = f"{name}_" if name else ""
        measured = _of(problem, ranked, relevant)
        measured |= _of_cold(problem, queries, ranked, relevant)
        found |= {prefix + metric: value for metric, value in measured.items()}
    return found


def _of(problem: Problem, ranked: Rows, relevant: Sequence[Rows]) -> dict[str, float]:
    each = per_query(ranked, relevant)
    found = mean(each)
    for name in WITH_INTERVAL:
        found[f"{name}_low"], found[f"{name}_high"] = interval(each[name])
    if problem.histories is not None:
        found |= catalogue_metrics(ranked, problem.counts())
    return found


def _of_cold(problem: Problem, queries: Rows, ranked: Rows, relevant: Sequence[Rows]) -> dict[str, float]:
    """Metrics of queries without a history, and of answers that training has not seen."""
    histories = problem.histories
    if histories is None:
        return {}
    found: dict[str, float] = {}
    known = problem.counts() > 0
    unseen = [items[~known[items]] for items in relevant]
    groups = {
        "cold_users": (np.flatnonzero(histories.begin[queries] == histories.end[queries]), list(relevant)),
        "cold_items": (np.flatnonzero([len(items) > 0 for items in unseen]), unseen),
    }
    for name, (rows, wanted) in groups.items():
        if len(rows):
            found[f"{name}_queries"] = float(len(rows))
            metrics = mean(per_query(ranked[rows], [wanted[row] for row in rows]))
            found |= {f"{name}_{k}": metrics[k] for k in ("hr_at_10", "hr_at_50", "ndcg_at_10")}
    return found


def cold_figures(problem: Problem, rank: Rank) -> dict[str, float]:
    """How items are placed that were kept out of training: by content, by popularity, at random.

    Returns:
        `cold_<metric>`, `cold_popularity_<metric>`, `cold_random_<metric>` of the part `cold`; nothing
        where there is none.
    """
    queries, relevant = problem.parts["cold"].by_query() if len(problem.parts["cold"]) else ((), ())
    if not len(queries):
        return {}
    counts = problem.counts().astype(np.float32)
    # Ties are broken at random, not by row: an item without an interaction is popular by nothing.
    luck = np.random.default_rng(0).random(len(counts)).astype(np.float32)
    ranks = {
        "": rank,
        "popularity_": by_scores(problem, np.asarray(counts + luck / 2, np.float32)),
        "random_": by_scores(problem, luck),
    }
    found = {"cold_queries": float(len(queries))}
    for name, each in ranks.items():
        metrics = per_query(each(np.asarray(queries)), relevant)
        kept = {k: float(metrics[k].mean()) for k in ("hr_at_10", "hr_at_50", "ndcg_at_10")}
        found |= {f"cold_{name}{metric}": value for metric, value in kept.items()}
        if not name:
            found["cold_hr_at_50_low"], found["cold_hr_at_50_high"] = interval(metrics["hr_at_50"])
    return found


def label_figures(
    problem: Problem, part: str, products: Callable[[Pairs], Vectors], score: Score
) -> dict[str, float]:
    """How well pairs are told apart where the data says which are negative.

    Args:
        products: inner products (P,) of some pairs by the model.
        score: what a product is shown as; only a sigmoid is a probability.

    Returns:
        `auc`, `log_loss` of a sigmoid, and the same of each item's share of positives in training
        (`itemmean_`), drawn towards the mean of all; nothing where the part has no negatives.
    """
    pairs = problem.parts[part]
    if pairs.label is None or not 0 < (pairs.label > 0).mean() < 1:
        return {}
    labels = pairs.label > 0
    given = products(pairs)
    means = _item_means(problem)[pairs.item]
    found = {
        "auc": float(roc_auc_score(labels, given)),
        "itemmean_auc": float(roc_auc_score(labels, means)),
        "itemmean_log_loss": float(log_loss(labels, means)),
        "labelled_pairs": float(len(pairs)),
    }
    if score.kind == "sigmoid":
        probability = 1 / (1 + np.exp(-(given.astype(np.float64) + score.bias)))
        found["log_loss"] = float(log_loss(labels, probability))
    return found


def _item_means(problem: Problem) -> npt.NDArray[np.float64]:
    train = problem.parts["train"]
    assert train.label is not None
    positive = np.bincount(train.item, train.label > 0, problem.item_count)
    total = np.bincount(train.item, minlength=problem.item_count)
    overall = positive.sum() / max(1, total.sum())
    return np.asarray((positive + SMOOTHING * overall) / (total + SMOOTHING), np.float64)
