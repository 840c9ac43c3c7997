"""Gate `shadow`: how many live queries the challenger was asked off the answer path."""

from typing import Any

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from export.gates.decision import Gate, Side
from protos.mlflow_names import (
    SHADOW,
    SHADOW_CHALLENGER,
    SHADOW_EMPTY,
    SHADOW_LATENCY_RATIO,
    SHADOW_OVERLAP,
    SHADOW_QUERIES,
    SHADOW_SCORE_SHIFT,
    STAGE,
)
from train.config import Experiment
from train.tracking import unreachable

MEANS = (SHADOW_OVERLAP, SHADOW_SCORE_SHIFT, SHADOW_LATENCY_RATIO)


def judge(challenger: Side, experiment: Experiment) -> tuple[Gate, dict[str, Any]]:
    """The gate, and the figures of all shadow runs of this challenger, weighted by their queries.

    Raises:
        Unavailable: MLflow does not answer.
    """
    bound = experiment.gates.min_shadow_queries
    measured = _measured(experiment.name, challenger.manifest.bundle_version)
    count = measured[SHADOW_QUERIES]
    overlap = measured.get(SHADOW_OVERLAP)
    beside = f", overlap@10 with the champion {overlap:.3f}" if overlap is not None else ""
    queries = "query" if count == 1 else "queries"
    text = f"asked {count:,.0f} live {queries} as a shadow{beside}" if count else "not run as a shadow"
    return Gate("shadow", count, float(bound), count >= bound, text), measured


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
    kept = [run.data.metrics for run in runs if run.data.metrics.get(SHADOW_QUERIES, 0) > 0]
    total = float(sum(metrics[SHADOW_QUERIES] for metrics in kept))
    empty = float(sum(metrics.get(SHADOW_EMPTY, 0.0) for metrics in kept))
    found: dict[str, Any] = {"runs": len(kept), SHADOW_QUERIES: total, SHADOW_EMPTY: empty}
    for mean in MEANS:
        told = [(metrics[SHADOW_QUERIES], metrics[mean]) for metrics in kept if mean in metrics]
        if told:
            found[mean] = sum(weight * value for weight, value in told) / sum(weight for weight, _ in told)
    return found
