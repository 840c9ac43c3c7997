"""Gate `shadow`: how many live queries the challenger has answered as a shadow of the champion.

The service sends a share of its live queries to the challenger, too, and records in MLflow how its answers
differ. This gate reads those runs.
"""

from collections.abc import Mapping
from typing import Any

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from export.release.gate import Comparison, Gate, GateResult, Judgement
from protos.mlflow_keys import (
    SHADOW,
    SHADOW_CHALLENGER,
    SHADOW_EMPTY,
    SHADOW_LATENCY_RATIO,
    SHADOW_OVERLAP,
    SHADOW_QUERIES,
    SHADOW_SCORE_SHIFT,
    STAGE,
    metric_before_groups,
)
from train.training.tracking import unreachable

MEANS = (SHADOW_OVERLAP, SHADOW_SCORE_SHIFT, SHADOW_LATENCY_RATIO)


def judge(comparison: Comparison) -> Judgement:
    """The result, and the means of all shadow runs of this challenger, weighted by their queries.

    Raises:
        Unavailable: MLflow does not answer.
    """
    bound = comparison.gates.min_shadow_queries
    measured = _measured(comparison.experiment.name, comparison.challenger.manifest.bundle_version)
    count = measured[SHADOW_QUERIES]
    overlap = measured.get(SHADOW_OVERLAP)
    beside = f", overlap@10 with the champion {overlap:.3f}" if overlap is not None else ""
    queries = "query" if count == 1 else "queries"
    text = f"answered {count:,.0f} live {queries} as a shadow{beside}" if count else "not run as a shadow"
    return GateResult("shadow", count, float(bound), count >= bound, text), measured


def _measured(name: str, bundle_version: str) -> dict[str, Any]:
    try:
        experiment = mlflow.get_experiment_by_name(name)
        runs = (
            []
            if experiment is None
            else mlflow.search_runs(
                [experiment.experiment_id],
                f"tags.`{STAGE}` = '{SHADOW}' and tags.`{SHADOW_CHALLENGER}` = '{bundle_version}'",
                ViewType.ACTIVE_ONLY,
                output_format="list",
            )
        )
    except MlflowException as error:
        raise unreachable(error) from None
    logged = [_by_present_names(run.data.metrics) for run in runs]
    kept = [metrics for metrics in logged if metrics.get(SHADOW_QUERIES, 0) > 0]
    total = float(sum(metrics[SHADOW_QUERIES] for metrics in kept))
    empty = float(sum(metrics.get(SHADOW_EMPTY, 0.0) for metrics in kept))
    found: dict[str, Any] = {"runs": len(kept), SHADOW_QUERIES: total, SHADOW_EMPTY: empty}
    for mean in MEANS:
        weighted = [(metrics[SHADOW_QUERIES], metrics[mean]) for metrics in kept if mean in metrics]
        if weighted:
            found[mean] = sum(n * value for n, value in weighted) / sum(n for n, _ in weighted)
    return found


def _by_present_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a shadow run, which may have been logged before metrics had groups."""
    before = {metric_before_groups(name): name for name in (SHADOW_QUERIES, SHADOW_EMPTY, *MEANS)}
    return {before.get(name, name): value for name, value in metrics.items()}


GATES = (
    Gate(
        name="shadow",
        title="live queries as a shadow",
        order=80,
        judge=judge,
        shown=lambda figure: f"{figure:,.0f}",
        at_least=True,
    ),
)
