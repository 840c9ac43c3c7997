"""Ranking metrics over the whole catalogue, from the ids that were ranked.

Every metric is a mean over queries. A query may have several relevant items; pairs with the same query
are one query.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ranked = npt.NDArray[np.int64]

CUTOFFS = (1, 10, 100)


def per_query(ranked: Ranked, relevant: Sequence[npt.NDArray[np.int64]]) -> dict[str, Floats]:
    """Metrics of each query.

    Args:
        ranked: (Q, K) item rows, best first; -1 where there is none.
        relevant: for each query its relevant item rows, at least one.

    Returns:
        Metric name -> (Q,): `recall_at_k`, `mrr_at_10`, `ndcg_at_10` (binary relevance, Järvelin and
        Kekäläinen 2002, with the discount log2(1 + rank)), `hr_at_10`.
    """
    hits = np.stack([np.isin(row, items) for row, items in zip(ranked, relevant, strict=True)])
    sizes = np.array([len(items) for items in relevant], np.float64)
    metrics = {f"recall_at_{k}": hits[:, :k].sum(axis=1) / sizes for k in CUTOFFS}
    ten = hits[:, :10]
    first = np.where(ten.any(axis=1), ten.argmax(axis=1) + 1.0, np.inf)
    discount = 1 / np.log2(np.arange(ten.shape[1]) + 2)
    ideal = np.cumsum(discount)[np.minimum(sizes, ten.shape[1]).astype(int) - 1]
    metrics["hr_at_10"] = ten.any(axis=1).astype(np.float64)
    metrics["mrr_at_10"] = 1 / first
    metrics["ndcg_at_10"] = (ten * discount).sum(axis=1) / ideal
    return metrics


def mean(metrics: Mapping[str, Floats]) -> dict[str, float]:
    """Each metric's mean over queries."""
    return {name: float(values.mean()) for name, values in metrics.items()}
