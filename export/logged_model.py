"""A bundle in MLflow: reports, figures and a logged model of the run that made it.

The logged model is there from the export on, so that the experiment's page of models lists and compares all
bundles. Until `make register` fills it, it has no files: those of the bundle are stored once.
"""

import time
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric

from twinspire.protos import bundle, names
from twinspire.protos.figures import JUDGED
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.train.training.mlflow_dataset import DIGEST_LENGTH
from twinspire.train.training.run_metrics import TABLE, as_table, compared
from twinspire.train.training.tracking import get_run, log_in_batches

REPORTS = "export"  # folder of the reports among a run's artifacts
KIND = "two-tower retrieval"  # type of the logged model, by which it can be searched


def log_bundle(folder: Path, run_id: str) -> None:
    """Log the reports of a new bundle and its logged model to a run, which may have ended."""
    client, manifest = mlflow.MlflowClient(), bundle.read_manifest(folder)
    client.log_artifacts(run_id, str(folder / bundle.REPORTS), REPORTS)
    client.log_text(run_id, as_table(manifest.quality), f"{REPORTS}/{TABLE}")
    logged_model(manifest, run_id)


def logged_model(manifest: bundle.Manifest, run_id: str) -> LoggedModel:
    """The logged model of a bundle; unless there is one, it is made of a run, which gets its figures, too.

    Raises:
        MissingStage: MLflow does not know the run.
        Unavailable: MLflow does not answer.
    """
    run = get_run(run_id)
    experiment, version = run.info.experiment_id, manifest.bundle_version
    known = mlflow.search_logged_models(
        [experiment], f"tags.`{BUNDLE_VERSION}` = '{version}'", max_results=1, output_format="list"
    )
    if known:
        return known[0]
    name = manifest.name.replace(".", "-")  # MLflow refuses dots
    model = mlflow.create_external_model(
        f"{name}-{version[: names.DIGITS]}",
        run_id,
        {BUNDLE_VERSION: version},
        run.data.params,
        KIND,
        experiment,
    )
    mlflow.MlflowClient().log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    dataset, now = manifest.dataset, time.time_ns() // 1_000_000
    data = dataset.get("name"), dataset.get("fingerprint", "")[:DIGEST_LENGTH] or None
    about = now, 0, model.model_id, *data, run_id
    log_in_batches(run_id, [Metric(name, value, *about) for name, value in figures(manifest).items()])
    return model


def figures(manifest: bundle.Manifest) -> dict[str, float]:
    """What bundles are compared by, by the names of the metrics in MLflow."""
    quality, index, sides = manifest.quality, manifest.ann, manifest.parity.values()
    judged = {name.removeprefix(JUDGED): value for name, value in quality.items() if name.startswith(JUDGED)}
    found = compared("served", quality) | compared("served_judged", judged)
    found |= compared("parity", {"max_abs_diff": max(side["max_abs_diff"] for side in sides)})
    of_index = {name: index[name] for name in index if name.startswith(("ann_recall", "ef_search"))}
    found |= compared("index", of_index | {"index_build_s": index["build_s"]})
    found |= compared("latency", manifest.latency["metrics"])
    return found | compared("bundle", {"size_mib": manifest.size_mib})
