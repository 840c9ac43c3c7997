"""The bench before this one: the newest of the same name on the same kind of machine, as MLflow has it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from export.bench.budgets import unit
from export.bench.figures import Figures
from export.bench.interval import Figure
from export.bench.machine import machine
from protos.documents import parse_json
from train.fingerprint import fingerprint
from train.tracking import find_run

STAGE = "bench"
ARTIFACTS = "bench"
DOCUMENT = "latency.json"


@dataclass(frozen=True)
class Change:
    """How a figure has changed since.

    Args:
        percent: of the figure before.
        sure: whether the intervals of the two do not meet. False where one of them has none, and of times
            where others used the machine: no interval knows how much they would have next time.
    """

    before: float
    percent: float
    sure: bool


def subject(bundle_name: str) -> str:
    """What makes two benches comparable: the name of the bundle, and the machine."""
    return fingerprint(bundle_name, machine())


def find(experiment: str, bundle_name: str) -> dict[str, Any] | None:
    """The document of the newest bench, with its `run_id`; None if there is none, or it cannot be read."""
    run = find_run(experiment, STAGE, subject(bundle_name))
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
) -> dict[str, Change]:
    """How some figures have changed, those that both benches have.

    Args:
        before: the document of a bench.
        names: of the figures.
        busy: whether others used the machine during either bench.
    """
    metrics, intervals = before.get("metrics", {}), before.get("intervals", {})
    found = {}
    for name in names:
        old = metrics.get(name)
        if name not in figures.metrics or not isinstance(old, int | float) or not old:
            continue
        percent = 100 * (figures.metrics[name] / old - 1)
        known = name in figures.sure and name in intervals and not (busy and unit(name))
        sure = known and figures.sure[name].apart(Figure(old, *intervals[name]))
        found[name] = Change(float(old), percent, sure)
    return found
