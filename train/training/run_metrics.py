"""Metrics of a run: the few that people compare runs by, and files with all of them.

Hundreds of metrics in MLflow are hundreds of charts with a single bar. So a run logs as metrics only what
`select_compared` selects. All others are in the artifact `metrics.json`, by their names in code, which later
commands read.

    mlflow.log_metrics(select_compared("test", metrics))
    log_all(run_id, metrics)
    metrics_of(run)["bm25_recall_at_10"]
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import mlflow
from mlflow.exceptions import MlflowException

from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.train.metrics import HEADLINE, MAIN_AND_RECALL, OF_LABELS, Selection, as_higher_is_better

if TYPE_CHECKING:
    from mlflow.entities import Run

FILE = "metrics.json"
_QUALITY = (*MAIN_AND_RECALL, *OF_LABELS)
# Group -> the metrics of it that runs are compared by. All metrics of other groups are logged; these are few.
COMPARED: Mapping[str, tuple[str, ...]] = {
    "validation": get_args(Selection),  # of the towers after each epoch
    "test": _QUALITY,  # of the towers that are kept, by exact search
    "judged": HEADLINE,
    "served": _QUALITY,  # of the bundle
    "served_judged": HEADLINE,
    "latency": (
        "query_tower_b1_p50_us",
        "query_tower_b1_p99_us",
        "item_tower_b32_p50_us",
        "torch_over_onnx_b1",
    ),
}
BEST_BASELINE = "_best_baseline"  # suffix of a metric: the value of the baseline that is best by it


def select_compared(group: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a group that are logged to MLflow, by their names there, such as `test/ndcg_at_10`.

    Beside a metric of quality stands that of the best baseline, `test/ndcg_at_10_best_baseline`.

    Args:
        group: which the UI shows as a section, such as `test`, `served` or `train`.
        metrics: by their names in code, without the group's prefix.
    """
    from twinspire.train.evaluation.baselines import BASELINES  # imports torch, as the next
    from twinspire.train.evaluation.label_baselines import LABEL_BASELINES

    found = {name: metrics[name] for name in COMPARED.get(group, metrics) if name in metrics}
    for name in COMPARED.get(group, ()):
        others = (f"{each.name}_{name}" for each in (*BASELINES, *LABEL_BASELINES))
        beside = [metrics[other] for other in others if other in metrics]
        if beside:
            found[name + BEST_BASELINE] = max(beside, key=lambda value: as_higher_is_better(name, value))
    return {f"{group}/{name}": value for name, value in found.items()}


def log_all(run_id: str, metrics: Mapping[str, float]) -> None:
    """Log all metrics of a run, by their names in code, as `metrics.json`.

    Args:
        metrics: those that MLflow does not have; of training and data it has all.
    """
    known = mlflow.get_run(run_id).data.metrics.items()
    of_training = {name: value for name, value in known if name.startswith(("train/", "data/"))}
    metrics = {**metrics, **{name.partition("/")[2]: value for name, value in of_training.items()}}
    mlflow.log_dict(metrics, FILE, run_id)


def metrics_of(run: "Run") -> dict[str, float]:
    """All metrics of a training run by their names in code, as `log_all` has stored them.

    Raises:
        MissingStage: the run was trained by a version that stored none.
        Unavailable: they cannot be read, or MLflow cannot say whether there are any.
    """
    run_id = run.info.run_id
    try:
        if FILE in [each.path for each in mlflow.MlflowClient().list_artifacts(run_id)]:
            return mlflow.artifacts.load_dict(f"runs:/{run_id}/{FILE}")
    except (MlflowException, OSError) as error:
        raise Unavailable(f"run {run_id}: its {FILE} cannot be read: {error}") from None
    raise MissingStage(f"run {run_id}: holds no {FILE}, as runs of an earlier version; train it again")
