"""The command `bench` of export: measures a bundle, and logs the figures as an MLflow run."""

from argparse import Namespace
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import mlflow

from twinspire.export.benchmark import BENCH_PARTS, LIBRARIES, retriever, towers
from twinspire.export.benchmark.figures import Figures, MeasuredBundle
from twinspire.export.bundles import find_bundle
from twinspire.protos.features import SIDES
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.protos.system.machine import machine, versions
from twinspire.train.config import read_experiment
from twinspire.train.data.dataset import prepare
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.fingerprint import fingerprint
from twinspire.train.progress import PROGRESS
from twinspire.train.training.tracking import connect, git_commit, log_metrics, tracked_run

STAGE = "bench"
ARTIFACT = "bench/latency.json"

Document = dict[str, Any]

# Each has `measure(bundle, figures)`, which adds figures and returns what else is reported.
PARTS: dict[str, Any] = dict(zip(BENCH_PARTS, (towers, retriever), strict=True))


def bench(arguments: Namespace) -> Document:
    """Measure a bundle (towers, retriever) beside torch, with intervals."""
    connect()
    experiment = read_experiment(arguments.config)
    folder, manifest = find_bundle(experiment, arguments.bundle)

    def data() -> TrainingData:
        dataset = prepare(experiment, arguments.config.parent, console=PROGRESS)
        read = training_data_of(dataset, experiment.query, experiment.item)
        return read.as_read_by(manifest.schema.query)

    return run(MeasuredBundle(folder, manifest, experiment, data), arguments.only)


def run(bundle: MeasuredBundle, only: Collection[str]) -> Document:
    """Measure some parts, and log the document with all figures.

    Raises:
        MissingStage: the run that trained the towers is unknown, or has none.
        BundleDamaged: the bundle cannot be measured.
    """
    manifest = bundle.manifest
    document: Document = {
        "name": manifest.name,
        "bundle": str(bundle.folder),
        "bundle_version": manifest.bundle_version,
        "git_commit": manifest.git_commit,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "measured_by": git_commit(),
        "machine": machine(),
        "versions": versions(LIBRARIES),
        "chosen": {side: bundle.variant(side) for side in SIDES},
        "metrics": {},
        "intervals": {},
    }
    grouped: dict[str, float] = {}  # such as `towers/torch_over_onnx_b1`
    for name in only:
        figures = Figures()
        document[name] = PARTS[name].measure(bundle, figures)
        document["metrics"] |= figures.metrics
        document["intervals"] |= {key: [each.low, each.high] for key, each in figures.estimates.items()}
        grouped |= {f"{name}/{key}": value for key, value in figures.metrics.items()}
    return document | {"run_id": _log(bundle, grouped, document)}


def _log(bundle: MeasuredBundle, metrics: Mapping[str, float], document: Document) -> str:
    """Log an MLflow run, after all measurements; returns its id."""
    key = fingerprint(bundle.manifest.name, document["machine"])
    with tracked_run(bundle.experiment.name, STAGE, key) as run_id:
        client = mlflow.MlflowClient()
        client.set_tag(run_id, BUNDLE_VERSION, bundle.manifest.bundle_version)
        log_metrics(run_id, metrics)
        client.log_dict(run_id, document, ARTIFACT)
    return run_id
