"""How the towers of a run do on validation: beside the baselines, and kept for a comparison of runs."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from twinspire.protos.errors import DataError, Unavailable
from twinspire.train.config import Experiment
from twinspire.train.evaluation.intervals import (
    Clusters,
    Interval,
    clusters_of,
    interval,
    pair_clusters_of,
)
from twinspire.train.evaluation.labelled_metrics import HIGHEST, pair_losses
from twinspire.train.evaluation.ranking import FittedBaseline
from twinspire.train.metrics import OF_LABELS, per_query
from twinspire.train.training.labelled_pairs import LabelledPairs
from twinspire.train.training.trainer import Trainer

FILE = "validation.npz"


def baselines_on_validation(
    experiment: Experiment,
    trainer: Trainer,
    rankers: Mapping[str, FittedBaseline],
    labelled: LabelledPairs,
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Of each baseline the metric that selects the epoch, and that of the towers less it; logs the towers'.

    If it is a metric of labels, these are those of `labelled` and nothing.
    """
    selection, data = experiment.training.selection, trainer.data
    if selection in OF_LABELS:
        pairs = data.parts["validation"]
        losses = pair_losses(pairs.is_positive, labelled.probabilities("validation"))
        _log(-losses, pair_clusters_of(data, "validation"))
        return labelled.baselines_on_validation(experiment), {}
    queries, relevant = data.parts["validation"].by_query()
    own = per_query(trainer.rank(queries), relevant)[selection]
    clusters = clusters_of(data, "validation")
    _log(own, clusters)
    others = {name: per_query(rank(queries), relevant)[selection] for name, rank in rankers.items()}
    leads = {name: interval(own, clusters, other) for name, other in others.items()}
    return {name: float(other.mean()) for name, other in others.items()}, leads


def lead_on_validation(run: Run, other: Run) -> tuple[Interval, Clusters]:
    """What a run has above another one on the same validation part, query by query, and what was drawn.

    It is in the metric that selects epochs, or of labels in minus the log loss of pairs.

    Raises:
        DataError: the queries or pairs have other clusters, or another number.
        Unavailable: the figures of a run cannot be read.
    """
    (own, of, unit), (beside, others, _) = (_figures(each) for each in (run, other))
    if not np.array_equal(of, others):
        raise DataError(f"runs {run.info.run_id} and {other.info.run_id}: are of other validation parts")
    clusters = Clusters(of, str(unit))
    return interval(own, clusters, beside, highest=max(HIGHEST.values())), clusters


def _figures(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        path = mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/{FILE}")
        with np.load(path, allow_pickle=False) as found:
            return found["values"], found["clusters"], found["unit"]
    except (MlflowException, OSError, ValueError, KeyError) as error:
        raise Unavailable(f"run {run.info.run_id}: its {FILE} cannot be read: {error}") from None


def _log(values: np.ndarray, clusters: Clusters) -> None:
    """Log a figure for each query or pair, higher is better, to the active run."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, FILE), values=values, clusters=clusters.of, unit=np.array(clusters.unit))
        mlflow.log_artifact(str(Path(folder, FILE)))
