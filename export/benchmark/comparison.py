"""What a bench is compared with: the budgets of its figures, and the previous bench.

    [bench]
    budgets = { query_tower_b1_p99_us = 200.0, retriever_b1_p99_us = 2000.0 }

A budget is an upper bound, but a lower one of speed-ups such as `torch_over_onnx_b1`.
The previous bench is the newest one in MLflow of the same bundle name on the same kind of machine.
"""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import mlflow
from mlflow.exceptions import MlflowException

from twinspire.export.benchmark.estimate import Estimate
from twinspire.export.benchmark.figures import Figures, shown, unit
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import ConfigError
from twinspire.protos.system.machine import machine
from twinspire.train.fingerprint import fingerprint
from twinspire.train.training.tracking import find_run

STAGE = "bench"
ARTIFACTS = "bench"
DOCUMENT = "latency.json"
SPEED_UP = "torch_over_"


class Budget(NamedTuple):
    """One figure and its bound."""

    name: str
    figure: float | None  # None where it could not be measured
    bound: float
    holds: bool  # whether the figure is within the bound
    at_least: bool  # whether it is a lower bound
    text: str  # name, figure and bound


def check_names(budgets: Collection[str], known: Collection[str]) -> None:
    """Refuse budgets of unknown figures by a ConfigError that lists similar names."""
    able = sorted(name for name in known if unit(name) is not None)
    for name in budgets:
        if name not in able:
            close = get_close_matches(name, able, 4, 0.5)
            similar = f"; close to it: {', '.join(close)}" if close else ""
            raise ConfigError(f"bench.budgets.{name}: expected a time or ratio of this bench{similar}")


def judge(
    budgets: Mapping[str, float], metrics: Mapping[str, float], left_out: Collection[str]
) -> list[Budget]:
    """Compare budgets with figures; those of figures of parts that were left out are skipped."""
    judged = []
    for name, bound in budgets.items():
        figure, at_least = metrics.get(name), SPEED_UP in name
        if figure is None:
            if name in left_out:
                continue
            holds, text = False, f"{name} was not measured (budget {shown(name, bound)})"
        else:
            holds = figure >= bound if at_least else figure <= bound
            relation = "at least" if at_least else "at most"
            text = f"{name} is {shown(name, figure)}, its budget {relation} {shown(name, bound)}"
        judged.append(Budget(name, figure, bound, holds, at_least, text))
    return judged


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
    """Changes of the figures of these names that both benches have.

    Returns:
        name -> `before`, the value in the document of the previous bench; `percent`, the change of it; and
        `apart`, whether the intervals do not overlap. That is false where a figure has none, and for times of
        a busy machine, where other processes were at work during either bench.
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
