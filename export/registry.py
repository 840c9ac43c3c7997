"""Bundles in the MLflow model registry: register them, find them, get them onto this disk.

    python -m export register --config train/configs/pydocs.toml

A registered version is a model that `mlflow.pyfunc.load_model("models:/pydocs@champion")` loads in any
process. `challenger` is the version registered last, `champion` the one that is served; what moves the
champion is in `export/release.py`.
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from export.assemble import BUNDLES, export_metrics
from export.card import as_input, card, lineage, main_figures
from protos import bundle
from protos.errors import MissingStage, TwinspireError, Unavailable
from protos.mlflow_names import BUNDLE_VERSION
from train.places import ROOT
from train.tracking import get_run, is_absent, unreachable

CHALLENGER = "challenger"
CHAMPION = "champion"
RUNTIME = ("numpy", "onnxruntime", "hnswlib", "protobuf", "mlflow")


def register(folder: Path) -> tuple[ModelVersion, bool]:
    """The bundle as a model version with alias `challenger`, and whether it had been one already.

    Raises:
        BundleError: the bundle is damaged.
        MissingStage: the run that trained its towers is tracked elsewhere.
        Unavailable: the registry does not answer.
    """
    manifest = bundle.read(folder)
    with answering():
        known = _version_of(manifest)
        registered = known is not None
        if known is None:
            get_run(manifest.run_id)
            known = _log_model(folder, manifest)
        mlflow.MlflowClient().set_registered_model_alias(manifest.name, CHALLENGER, known.version)
    return known, registered


def by_alias(name: str, alias: str) -> ModelVersion | None:
    """The version that has an alias.

    Raises:
        Unavailable: the registry does not answer, so nobody knows.
    """
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if is_absent(error):
            return None
        raise unreachable(error) from None


def by_version(name: str, number: str) -> ModelVersion:
    """The version of that number.

    Raises:
        MissingStage: there is none, or no more.
        Unavailable: the registry does not answer, so nobody knows.
    """
    try:
        return mlflow.MlflowClient().get_model_version(name, number)
    except MlflowException as error:
        if is_absent(error):
            raise MissingStage(f"{name}: there is no version {number}") from None
        raise unreachable(error) from None


def fetch(name: str, number: str) -> tuple[Path, bundle.Manifest]:
    """The bundle of a version, from the registry onto this disk, and its manifest.

    One that lies here already, whole, is used as it is: a bundle's version is the hash of its content.

    Raises:
        TwinspireError: the registry does not have it whole; the text says what is wrong.
    """
    command = [sys.executable, "-m", "serving.bundles", f"models:/{name}/{number}", str(BUNDLES)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        raise TwinspireError(f"{name}: version {number} cannot be had: {said[-1].removeprefix('error: ')}")
    folder = Path(done.stdout.splitlines()[-1])
    return folder, bundle.read_manifest(folder)


@contextmanager
def answering() -> Iterator[None]:
    """What MLflow cannot do is told as `Unavailable`."""
    try:
        yield
    except MlflowException as error:
        raise unreachable(error) from None
    except RecursionError:
        raise Unavailable(f"{mlflow.get_tracking_uri()}: MLflow answers with JSON nested too deep") from None


def _version_of(manifest: bundle.Manifest) -> ModelVersion | None:
    found = mlflow.MlflowClient().search_model_versions(
        f"name = '{manifest.name}' and tag.`{BUNDLE_VERSION}` = '{manifest.bundle_version}'"
    )
    return found[0] if found else None


def _log_model(folder: Path, manifest: bundle.Manifest) -> ModelVersion:
    """Into the run that trained the towers, and from there into the registry."""
    example = [as_input(manifest.examples[0])]
    client = mlflow.MlflowClient()
    with mlflow.start_run(run_id=manifest.run_id), warnings.catch_warnings(record=True) as said:
        logged = mlflow.pyfunc.log_model(
            name=manifest.name,
            python_model=str(ROOT / "serving" / "pyfunc_model.py"),
            artifacts={"bundle": str(folder)},
            code_paths=[str(ROOT / "serving"), str(ROOT / "protos")],
            input_example=(example, {"k": 10, "exclude_history": False}),
            pip_requirements=[f"{package}=={version(package)}" for package in RUNTIME],
        )
    for each in said:  # MLflow has no type hint for "a text or a table of features", and says so
        if "Any type hint" not in str(each.message):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    mlflow.log_metrics(_metrics(manifest), run_id=manifest.run_id, model_id=logged.model_id)
    try:
        client.create_registered_model(manifest.name)
    except MlflowException:  # it is there
        client.get_registered_model(manifest.name)
    figures = {name: f"{value:.6g}" for name, value in main_figures(manifest).items()}
    return client.create_model_version(
        manifest.name,
        logged.model_uri,
        manifest.run_id,
        tags=figures | lineage(manifest),
        description=card(manifest),
        model_id=logged.model_id,
    )


def _metrics(manifest: bundle.Manifest) -> dict[str, float]:
    """All figures of a bundle, which MLflow then shows beside the version."""
    reports = {
        "parity": manifest.parity,
        "index": manifest.ann,
        "quality": manifest.quality,
        "latency": manifest.latency,
    }
    return export_metrics(reports) | {"size_mib": main_figures(manifest)["size_mib"]}
