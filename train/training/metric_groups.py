"""Names of metrics in MLflow: grouped by slashes, which the UI shows as sections.

Code and reports name a metric `bm25_recall_at_10`. A run names it `test/bm25/recall_at_10`, beside
`test/recall_at_10` of the model, and the ends of its interval `test/bm25/interval/recall_at_10_low`.

    mlflow.log_metrics(grouped("test", metrics))
    metrics_of(run)["bm25_recall_at_10"]

`metrics_of` also reads runs that were logged before there were groups: their names have no slash.
"""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

# Group -> prefix of its metrics' names in code and reports. What a group measures:
GROUPS = {
    "train": "",  # the steps and epochs of the training, by step or by epoch
    "validation": "validation_",  # the towers after each epoch, exact search
    "test": "",  # the towers that are kept on the test part, exact search, and the baselines
    "judged": "judged_",  # the same on the judged queries
    "data": "",  # sizes of the data set and of the model
    "served": "served_",  # the bundle on the test part, and the baselines
    "parity": "",  # torch against ONNX Runtime
    "index": "",
    "latency": "",  # of the towers
    "bundle": "",
    "refresh": "refresh_",
    "gates": "gate_",
}
INTERVAL = "interval"  # subgroup of the ends of the 95 % intervals


def grouped(group: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics by their names in MLflow.

    Args:
        group: one of `GROUPS`.
        metrics: by their names in code, without the group's prefix.
    """
    return {f"{group}/{_in_subgroups(name)}": value for name, value in metrics.items()}


def metrics_of(run: "Run") -> dict[str, float]:
    """The newest value of each metric of a run, by its name in code."""
    return {name_in_code(name): value for name, value in run.data.metrics.items()}


def name_in_code(name: str) -> str:
    """The inverse of `grouped`; a name of no group, such as `system/cpu_utilization_percentage`, stays."""
    group, *parts = name.split("/")
    if group not in GROUPS or not parts:
        return name
    return GROUPS[group] + "_".join(part for part in parts if part != INTERVAL)


def _in_subgroups(name: str) -> str:
    below = []
    for subgroup in _subgroups():
        # A baseline's metric is `popularity_recall_at_10`; `popularity_at_10` is a metric of the model.
        if name.startswith(f"{subgroup}_") and not name.startswith(f"{subgroup}_at_"):
            below.append(subgroup)
            name = name.removeprefix(f"{subgroup}_")
    if name.endswith(("_low", "_high")):
        below.append(INTERVAL)
    return "/".join([*below, name])


@cache
def _subgroups() -> tuple[str, ...]:
    """Judged queries, other rankings, some of the items or users, differences, and some of the queries.

    Of rankings and of cold queries longer prefixes come first.
    """
    from twinspire.train.evaluation.baselines import (
        LABELS,  # imports torch, which readers of metrics do not need
    )
    from twinspire.train.evaluation.query_groups import GROUPS as QUERY_GROUPS

    # `bm25_full` before `bm25`
    rankings = sorted(LABELS, key=len, reverse=True)
    others = ("exact", "dense", "lexical", "hybrid", "cold_users", "cold_items", "cold", "difference")
    return ("judged", *rankings, *others, *QUERY_GROUPS)
