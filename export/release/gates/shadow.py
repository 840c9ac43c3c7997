"""Gate `shadow`: how many live queries the challenger has answered as a shadow of the champion.

The service sends a share of its live queries to the challenger, too, and records in MLflow how its answers
differ. This gate reads those runs.
"""

from typing import Any

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from twinspire.export.release.gate import Comparison, Gate, GateResult, Judgement
from twinspire.protos.mlflow_keys import (
    SHADOW,
    SHADOW_CHALLENGER,
    SHADOW_EMPTY,
    SHADOW_LATENCY_RATIO,
    SHADOW_OVERLAP,
    SHADOW_QUERIES,
    SHADOW_SCORE_SHIFT,
    STAGE,
    without_group,
)
from twinspire.train.training.tracking import unreachable

# Names in the report.
QUERIES, EMPTY, OVERLAP = map(without_group, (SHADOW_QUERIES, SHADOW_EMPTY, SHADOW_OVERLAP))
MEANS = (OVERLAP, without_group(SHADOW_SCORE_SHIFT), without_group(SHADOW_LATENCY_RATIO))


def judge(comparison: Comparison) -> Judgement:
    """The result, and the means of all shadow runs of this challenger, weighted by their queries.

    Raises:
        Unavailable: MLflow does not answer.
    """
    bound = comparison.gates.min_shadow_queries
    measured = _measured(comparison.experiment.name, comparison.challenger.manifest.bundle_version)
    count = measured[QUERIES]
    overlap = measured.get(OVERLAP)
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
    # Runs that were logged before metrics had groups have the names of the report.
    logged = [{without_group(key): value for key, value in run.data.metrics.items()} for run in runs]
    kept = [metrics for metrics in logged if metrics.get(QUERIES, 0) > 0]
    total = float(sum(metrics[QUERIES] for metrics in kept))
    empty = float(sum(metrics.get(EMPTY, 0.0) for metrics in kept))
    found: dict[str, Any] = {"runs": len(kept), QUERIES: total, EMPTY: empty}
    for mean in MEANS:
        weighted = [(metrics[QUERIES], metrics[mean]) for metrics in kept if mean in metrics]
        if weighted:
            found[mean] = sum(n * value for n, value in weighted) / sum(n for n, _ in weighted)
    return found


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
