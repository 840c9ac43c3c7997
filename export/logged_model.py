"""A bundle in MLflow: reports, figures and a logged model of the run that made it.

The logged model is there from the export on, so that the experiment's page of models lists and compares all
bundles. Until `make register` fills it, it has none of the bundle's files: they are stored once.
"""

import time
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric

from twinspire.protos import bundle, names
from twinspire.protos.figures import JUDGED
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.train.data.dataset import DIGEST_LENGTH
from twinspire.train.training.run_metrics import select_compared
from twinspire.train.training.tracking import get_run, log_in_batches, mlflow_errors

REPORTS = "export"  # folder of the reports among a run's artifacts
KIND = "two-tower retrieval"  # type of the logged model, by which it can be searched


def log_bundle(folder: Path, run_id: str) -> LoggedModel:
    """Log the reports and figures of a bundle and its logged model to a run, which may have ended.

    The figures come last: a logged model that has them is whole, and returned as it is. One without them has
    been left by an error, and gets what it lacks.

    Raises:
        MissingStage: MLflow does not know the run.
        Unavailable: MLflow does not answer.
    """
    client, manifest, run = mlflow.MlflowClient(), bundle.read_manifest(folder), get_run(run_id)
    experiment, version = run.info.experiment_id, manifest.bundle_version
    with mlflow_errors():
        known = mlflow.search_logged_models(
            [experiment], f"tags.`{BUNDLE_VERSION}` = '{version}'", max_results=1, output_format="list"
        )
        if known and known[0].metrics:
            return known[0]
        client.log_artifacts(run_id, str(folder / bundle.REPORTS), REPORTS)
        name = f"{manifest.name.replace('.', '-')}-{version[: names.DIGITS]}"  # MLflow refuses dots
        new = name, run_id, {BUNDLE_VERSION: version}, run.data.params, KIND, experiment
        model = known[0] if known else mlflow.create_external_model(*new)
        if model.status != LoggedModelStatus.READY:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        outputs = run.outputs.model_outputs if run.outputs is not None else []
        if model.model_id not in [each.model_id for each in outputs]:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        dataset, now = manifest.dataset, time.time_ns() // 1_000_000
        data = dataset.get("name"), dataset.get("fingerprint", "")[:DIGEST_LENGTH]
        about = now, 0, model.model_id, *(data if all(data) else (None, None)), run_id  # neither goes alone
        log_in_batches(run_id, [Metric(name, value, *about) for name, value in figures(manifest).items()])
    return model


def figures(manifest: bundle.Manifest) -> dict[str, float]:
    """What bundles are compared by, by the names of the metrics in MLflow."""
    quality, index, sides = manifest.quality, manifest.ann, manifest.parity.values()
    judged = {name.removeprefix(JUDGED): value for name, value in quality.items() if name.startswith(JUDGED)}
    found = select_compared("served", quality) | select_compared("served_judged", judged)
    found |= select_compared("parity", {"max_abs_diff": max(side["max_abs_diff"] for side in sides)})
    of_index = {name: index[name] for name in index if name.startswith(("ann_recall", "ef_search"))}
    found |= select_compared("index", of_index | {"index_build_s": index["build_s"]})
    found |= select_compared("latency", manifest.latency["metrics"])
    return found | select_compared("bundle", {"size_mib": manifest.size_mib})
