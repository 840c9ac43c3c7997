"""The command `bench` of export: measures a bundle again, and logs the figures as an MLflow run."""

from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from twinspire.export.benchmark.figures import Figures, percentile
from twinspire.export.benchmark.isolated_process import ask_of_bundle
from twinspire.export.benchmark.towers import measure_towers, tower_forms
from twinspire.export.bundles import find_bundle
from twinspire.protos.bundle import Manifest
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.protos.system.machine import versions
from twinspire.train.config import Experiment
from twinspire.train.data.dataset import prepare
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.fingerprint import fingerprint
from twinspire.train.progress import PROGRESS
from twinspire.train.training.tracking import git_commit, log_metrics, tracked_run

STAGE = "bench"
ARTIFACT = "bench/latency.json"
LIBRARIES = ("torch", "onnxruntime", "numpy", "hnswlib")  # whose versions are reported
K = 10  # items in an answer
ROUNDS = 10  # of the retriever, whose median counts
LOADS = 5  # processes that load the bundle
# Figure -> its name in the response of the service's process.
RETRIEVER = {f"retriever_b1_{each}": each for each in ("p50_us", "p99_us")}
LOADING = ("load_s", "start_s")

Document = dict[str, Any]


def bench(experiment: Experiment, arguments: Namespace) -> Document:
    """Measure a bundle (towers beside torch, retriever, loading), with intervals."""
    folder, manifest = find_bundle(experiment, arguments.bundle)
    dataset = prepare(experiment, arguments.config.parent, console=PROGRESS)
    read = training_data_of(dataset, experiment.query, experiment.item)
    return run(folder, manifest, experiment, read.as_read_by(manifest.schema.query))


def run(folder: Path, manifest: Manifest, experiment: Experiment, data: TrainingData) -> Document:
    """Measure, and log the document with all figures.

    Raises:
        MissingStage: the run that trained the towers is unknown, or has none.
        BundleDamaged: the bundle cannot be measured.
    """
    figures = Figures()
    retriever = _measure_retriever(folder, experiment, figures)  # first, as it names a damaged bundle
    towers = measure_towers(tower_forms(folder, manifest, data), experiment.export, figures)
    document = {
        "name": manifest.name,
        "bundle": str(folder),
        "bundle_version": manifest.bundle_version,
        "git_commit": manifest.git_commit,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "measured_by": git_commit(),
        "versions": versions(LIBRARIES),
        **towers,
        "retriever": retriever,
        "metrics": figures.metrics,
        "intervals": {name: [each.low, each.high] for name, each in figures.estimates.items()},
    }
    key = fingerprint(manifest.name, document["machine"])
    with tracked_run(experiment.name, STAGE, key) as run_id:
        client = mlflow.MlflowClient()
        client.set_tag(run_id, BUNDLE_VERSION, manifest.bundle_version)
        log_metrics(run_id, {f"bench/{name}": value for name, value in figures.metrics.items()})
        client.log_dict(run_id, document, ARTIFACT)
    return document | {"run_id": run_id}


def _measure_retriever(folder: Path, experiment: Experiment, figures: Figures) -> Document:
    """One query at a time, and loading, on one thread; adds the figures.

    Raises:
        BundleDamaged: the bundle cannot be measured.
    """
    request = {"task": "measure", "bundles": {"bundle": str(folder.absolute())}, "k": K, "loads": 0}
    request |= {"iterations": experiment.gates.iterations, "rounds": ROUNDS}
    with PROGRESS.status("the retriever, and load time"):
        taken = ask_of_bundle(folder, request)["latency"]["retriever"]["bundle"]
        loads = [ask_of_bundle(folder, {"task": "load"}) for _ in range(LOADS)]
    values = {name: taken[each] for name, each in RETRIEVER.items()}
    values |= {name: [load[name] for load in loads] for name in LOADING}
    for name, each in values.items():
        figures.add(name, percentile(np.array(each)[:, None], 50))
    return {"k": K, "queries": taken["queries"], "loads": loads}
