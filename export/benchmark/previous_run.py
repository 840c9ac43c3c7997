"""The previous bench in MLflow: the newest of the same bundle name on the same kind of machine."""

from collections.abc import Iterable, Mapping
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from export.benchmark.figures import Figures, unit
from export.latency.estimate import Estimate
from protos.documents import parse_json
from protos.system.machine import machine
from train.fingerprint import fingerprint
from train.training.tracking import find_run

STAGE = "bench"
ARTIFACTS = "bench"
DOCUMENT = "latency.json"


def comparison_key(bundle_name: str) -> str:
    """A key of comparable benches: the name of the bundle, and the machine."""
    return fingerprint(bundle_name, machine())


def find(experiment: str, bundle_name: str) -> dict[str, Any] | None:
    """The document of the newest bench with its `run_id`; None if there is none or it cannot be read."""
    run = find_run(experiment, STAGE, comparison_key(bundle_name))
    if run is None:
        return None
    try:
        text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{ARTIFACTS}/{DOCUMENT}")
        document = parse_json(text)
    except (MlflowException, OSError, ValueError):
        return None
    return {**document, "run_id": run.info.run_id} if isinstance(document, dict) else None


def changes(
    figures: Figures, before: Mapping[str, Any], names: Iterable[str], busy: bool
) -> dict[str, dict[str, Any]]:
    """Changes of the figures that both benches have.

    Args:
        figures: of this bench.
        before: document of the previous bench.
        names: of the figures.
        busy: whether other processes used the machine during either bench.

    Returns:
        name -> `before`, the previous value; `percent`, the change of it; and `apart`, whether the intervals
        do not overlap. That is false where a figure has none, and for times where other processes used the
        machine, which intervals do not cover.
    """
    metrics, intervals = before.get("metrics", {}), before.get("intervals", {})
    found = {}
    for name in names:
        old = metrics.get(name)
        if name not in figures.metrics or not isinstance(old, int | float) or not old:
            continue
        known = name in figures.estimates and name in intervals and not (busy and unit(name))
        apart = known and figures.estimates[name].differs_from(Estimate(old, *intervals[name]))
        percent = 100 * (figures.metrics[name] / old - 1)
        found[name] = {"before": float(old), "percent": percent, "apart": apart}
    return found
