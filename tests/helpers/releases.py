"""Small versions in a real registry, and decisions on them, without any training."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import mlflow
from mlflow.entities.model_registry import ModelVersion

from tests.helpers.stdlib import write_toml
from tests.helpers.tiny import tiny_bundle
from twinspire.export.release import audit_log, registry
from twinspire.export.release.audit_log import Action
from twinspire.export.release.gate import ComparedVersion, Decision, GateResult
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.data.training_data import TrainingData
from twinspire.train.training.tracking import experiment_id

NAME = "tiny"
QUALITY = {
    "queries": 20,
    "verdict": "better than BM25 at nDCG@10: 0.912 against 0.750",
    **{f"{name}recall_at_{k}": 0.9 + k / 1000 for name in ("", "exact_", "bm25_") for k in (1, 10, 100)},
    **{f"{name}{metric}_at_10": 0.75 for name in ("", "exact_", "bm25_") for metric in ("hr", "mrr", "ndcg")},
    "ndcg_at_10": 0.9123,
    "ndcg_at_10_low": 0.9,
    "ndcg_at_10_high": 0.92,
}
OF_LABELS = {
    **{"auc": 0.75, "auc_low": 0.7, "auc_high": 0.8, "log_loss": 0.55, "ece": 0.01},
    **{"itemmean_auc": 0.7, "itemmean_log_loss": 0.6, "itemmean_auc_gain": 0.05},
}
PARITY = {
    side: {"max_abs_diff": 1.3e-7, "tolerance": 1e-5, "records": 1548, "side": side}
    for side in ("query", "item")
}
ANN = {"ann_recall_at_10": 0.9876, "target": 0.95, "ef_search": 32, "reached": True, "build_s": 0.1}
LATENCY = {
    "threads": 1,
    "machine": {"processor": "A processor", "cores": 2, "system": "Linux"},
    "metrics": {
        f"{side}_tower_b{batch}_p{percentile}_us": 40.0 + batch + percentile
        for side in ("query", "item")
        for batch in (1, 8, 32)
        for percentile in (50, 95, 99)
    },
}
DATASET = {
    "name": "pseudo-words",
    "kind": "tiny",
    "items": 60,
    "pairs": 80,
    "parts": {"train": 50, "validation": 10, "test": 20},
    "fingerprint": "f" * 64,
    "origin": {"licence": "nobody's"},
}
HELD = GateResult("parity", 1.3e-7, 1e-5, True, "torch and ONNX Runtime agree")
REFUSED = GateResult("quality", -0.05, -0.01, False, "nDCG@10 is worse than the champion's")


def small_bundle(parent: Path, report: str, **manifest: Any) -> Path:
    """A tiny bundle whose manifest says all that an exported one says."""
    known: dict[str, Any] = {
        "name": NAME,
        "git_commit": "c" * 40,
        "dataset": DATASET,
        "quality": QUALITY,
        "parity": PARITY,
        "ann": ANN,
        "latency": LATENCY,
    }
    return tiny_bundle(parent, items=60, report=json.dumps(report) + "\n", **(known | manifest))


def register(parent: Path, count: int) -> None:
    """Some versions in the registry that MLflow points at, the last the challenger."""
    client = mlflow.MlflowClient()
    for n in range(count):
        run = client.create_run(experiment_id(NAME))
        registry.register(small_bundle(parent, f"{n}", run_id=run.info.run_id))
        client.set_terminated(run.info.run_id)


def register_again(number: int) -> ModelVersion:
    """One more version of the same files: registering new ones takes seconds."""
    client = mlflow.MlflowClient()
    version = client.get_model_version(NAME, str(number))
    model_id = model_of(version)
    return client.create_model_version(
        NAME, f"models:/{model_id}", version.run_id, tags=dict(version.tags), model_id=model_id
    )


def model_of(version: ModelVersion) -> str:
    """Id of the logged model behind a version."""
    assert version.source is not None
    return version.source.removeprefix("models:/")


def figures_beside(version: ModelVersion) -> dict[str, float]:
    """What MLflow shows as a version's metrics."""
    metrics = mlflow.get_logged_model(model_of(version)).metrics
    assert metrics is not None
    return {metric.key: metric.value for metric in metrics}


def small_experiment(folder: Path) -> Experiment:
    """The experiment that the small versions belong to."""
    return read_experiment(write_toml(folder, folder / f"{NAME}.toml", NAME))


def no_data() -> NoReturn:
    """The data, for a decision that needs none."""
    raise AssertionError("nothing had to be evaluated anew")


@dataclass(frozen=True)
class Decide:
    """A comparison with given results.

    Args:
        meanwhile: called while it measures.
    """

    results: tuple[GateResult, ...] = (HELD,)
    meanwhile: Callable[[], object] = int

    def __call__(
        self,
        challenger: ComparedVersion,
        champion: ComparedVersion | None,
        experiment: Experiment,
        data: Callable[[], TrainingData],
    ) -> Decision:
        self.meanwhile()
        return Decision(challenger, champion, self.results, {})


def record_move(
    name: str,
    action: Action,
    before: str,
    after: str,
    gates: Sequence[Mapping[str, Any]] = (),
    reason: str = "",
) -> str:
    """A record, and the alias moved, as `promote` and `rollback` do without a comparison; its run's id."""
    with audit_log.release_run(name, f"version {after}") as run_id:
        audit_log.commit(name, run_id, action, before, after, gates, reason)
    return run_id


def aliased(alias: str) -> str:
    """Number of the version that has an alias, empty if none has."""
    found = registry.by_alias(NAME, alias)
    return "" if found is None else str(found.version)


def make_challenger(number: int) -> None:
    mlflow.MlflowClient().set_registered_model_alias(NAME, registry.CHALLENGER, str(number))


def answered_elsewhere(model: str, query: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The three hits of a registered model for a query, asked in a fresh process in another folder.

    Returns:
        the hits, and all that the process has printed.
    """
    code = (
        "import json, mlflow, sys\n"
        "sys.path[:] = [each for each in sys.path if not each.endswith('.import')]  # this checkout\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "print(json.dumps(model.predict([sys.argv[2]], params={'k': 3})))\n"
    )
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, model, query],
        cwd=folder,
        env=bare,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    (hits,) = json.loads(done.stdout.splitlines()[-1])
    return hits, done.stdout
