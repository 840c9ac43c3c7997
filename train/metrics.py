"""Ranking metrics over the whole catalogue, from ranked item rows.

Every metric is a mean over queries. A query may have several relevant items; pairs with the same query
are one query. `metric_label` also spells the metrics of labels (`evaluation/labelled_metrics.py`). A new
metric is computed in `per_query` and named in the tuples below, which reports, gates and TOML files follow.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

DRAWN, DRAWN_PAIRS = "drawn", "drawn_pairs"  # names of what `evaluation.intervals.drawn_in` returns
Floats = npt.NDArray[np.float64]
Ranked = npt.NDArray[np.signedinteger[Any]]  # (Q, K) item rows, best first; -1 where there are no more

CUTOFFS = (1, 10, 20, 50, 100)
LOWER_IS_BETTER = ("log_loss", "ece")  # of all other metrics the higher value is the better one
METRIC_NAMES = {"ndcg": "nDCG", "mrr": "MRR", "hr": "HR", "auc": "AUC", "log_loss": "log loss", "ece": "ECE"}

RankingMetric = Literal[
    "recall_at_1",
    "recall_at_10",
    "recall_at_20",
    "recall_at_50",
    "recall_at_100",
    "hr_at_10",
    "hr_at_50",
    "mrr_at_10",
    "ndcg_at_10",
]
LabelMetric = Literal["auc", "log_loss"]  # of labelled pairs; they are not means over queries
Selection = Literal[
    "recall_at_10", "hr_at_10", "ndcg_at_10", "mrr_at_10", LabelMetric
]  # may choose the epoch
GateMetric = Literal["selection", RankingMetric]  # may compare releases
OF_LABELS: tuple[str, ...] = get_args(LabelMetric)

# The metrics that an output shows, in its order.
MAIN = ("ndcg_at_10", "recall_at_10", "mrr_at_10")  # also: none of them may be worse in a hybrid
MAIN_AND_RECALL = (*MAIN, "recall_at_100")
HEADLINE = (
    "recall_at_10",
    "ndcg_at_10",
)  # for narrow outputs; also: a precision may lose little of them
SHOWN = ("recall_at_1", "recall_at_10", "recall_at_100", "hr_at_10", "mrr_at_10", "ndcg_at_10")
SHOWN_OF_HISTORIES = (*SHOWN[:2], "recall_at_20", *SHOWN[2:])  # as papers on recommendation report
WITH_INTERVAL = ("recall_at_10", "recall_at_20", "hr_at_10", "ndcg_at_10", "mrr_at_10")
OF_COLD_START = ("hr_at_10", "hr_at_50", "ndcg_at_10")


def as_higher_is_better(metric: str, value: float) -> float:
    """The value of a metric, negated if lower is better, so that the higher one is always the better one.

    Args:
        metric: its name, without the name of a baseline before it.
    """
    return -value if metric in LOWER_IS_BETTER else value


def metric_label(metric: str) -> str:
    """The name of a metric in tables and plots: nDCG@10 for `ndcg_at_10`."""
    name, _, k = metric.partition("_at_")
    return f"{METRIC_NAMES.get(name, name)}@{k}" if k else METRIC_NAMES.get(name, name)


def per_query(
    ranked: Ranked,
    relevant: Sequence[npt.NDArray[np.int64]],
    gains: Sequence[npt.NDArray[np.int64]] | None = None,
) -> dict[str, Floats]:
    """Metrics of each query.

    Args:
        ranked: (Q, K) item rows, best first; -1 where there is none.
        relevant: for each query its relevant item rows, at least one.
        gains: for each query the gains of these items, above 0; 1 without them. Only nDCG reads them.

    Returns:
        Metric name -> (Q,): `recall_at_k`, `mrr_at_10`, `ndcg_at_10` (Järvelin and Kekäläinen 2002, with the
        gains as they are and the discount log2(1 + rank), as trec_eval computes it), `hr_at_10`, `hr_at_50`.
    """
    hits = _hits(ranked, relevant)
    sizes = np.array([len(items) for items in relevant], np.float64)
    metrics = {f"recall_at_{k}": hits[:, :k].sum(axis=1) / sizes for k in CUTOFFS}
    ten = hits[:, :10]
    first = np.where(ten.any(axis=1), ten.argmax(axis=1) + 1.0, np.inf)
    metrics |= {f"hr_at_{k}": hits[:, :k].any(axis=1).astype(np.float64) for k in (10, 50)}
    metrics["mrr_at_10"] = 1 / first
    if gains is None:
        metrics["ndcg_at_10"] = _ndcg(ten, sizes)
        return metrics
    discount = 1 / np.log2(np.arange(ten.shape[1]) + 2)
    judged = zip(ranked[:, :10], relevant, gains, strict=True)
    # (K,) of each query: the gain of each item, 0 where it is not relevant.
    gained = np.stack([(rows[:, None] == items) @ own.astype(np.float64) for rows, items, own in judged])
    metrics["ndcg_at_10"] = (gained * discount).sum(axis=1) / np.array([_ideal(each) for each in gains])
    return metrics


def ndcg(ranked: Ranked, relevant: Sequence[npt.NDArray[np.int64]]) -> Floats:
    """(Q,): nDCG over all K places, of relevant items with equal gains; arguments as of `per_query`."""
    return _ndcg(_hits(ranked, relevant), np.array([len(items) for items in relevant]))


def _ndcg(hits: npt.NDArray[np.bool_], sizes: npt.NDArray[Any]) -> Floats:
    """(Q,): nDCG of hits (Q, K), given the numbers of relevant items (Q,)."""
    discount = 1 / np.log2(np.arange(hits.shape[1]) + 2)
    ideal = np.cumsum(discount)[np.minimum(sizes, hits.shape[1]).astype(int) - 1]
    return np.asarray((hits * discount).sum(axis=1) / ideal)


def _hits(ranked: Ranked, relevant: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
    """(Q, K): whether each ranked item is relevant to its query; one search for all queries."""
    if len(ranked) != len(relevant):
        raise ValueError(f"{len(ranked)} rankings of {len(relevant)} queries")
    sizes = [len(items) for items in relevant]
    if not all(sizes):
        raise ValueError(f"query {sizes.index(0)} has no relevant items")
    items = np.concatenate(relevant)
    # The code of item i of query q is q * stride + i + 1. The filler -1 has q * stride, which no item has.
    stride = max(ranked.max(), items.max()) + 2
    offsets = np.arange(len(relevant)) * stride + 1
    return np.isin(ranked + offsets[:, None], items + np.repeat(offsets, sizes))


def _ideal(gains: Ranked) -> float:
    """The largest discounted gain of ten places."""
    best = np.sort(gains)[::-1][:10]
    return float((best / np.log2(np.arange(len(best)) + 2)).sum())


def mean(metrics: Mapping[str, Floats]) -> dict[str, float]:
    """Each metric's mean over queries."""
    return {name: float(values.mean()) for name, values in metrics.items()}


def catalogue_metrics(ranked: Ranked, counts: npt.NDArray[np.int64], k: int = 10) -> dict[str, float]:
    """Coverage and popularity of all rankings together.

    Args:
        ranked: (Q, K) item rows, best first; -1 where there is none.
        counts: (N,) training interactions of each item.

    Returns:
        `coverage_at_10`, the share of the catalogue that is among the first k of any query, and
        `popularity_at_10`, the mean popularity of the first k: the share of the other items that have fewer
        interactions (Abdollahpouri et al. 2019 average the counts; a rank is easier to read).
    """
    first = ranked[:, :k]
    shown = first[first >= 0]
    ordered = np.sort(counts)
    percentile = np.searchsorted(ordered, counts[shown], side="left") / max(1, len(counts) - 1)
    return {
        f"coverage_at_{k}": len(np.unique(shown)) / len(counts),
        f"popularity_at_{k}": float(percentile.mean()) if len(shown) else 0.0,
    }
