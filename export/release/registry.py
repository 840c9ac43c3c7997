"""Bundles in the MLflow model registry: register, find and download them.

    python -m twinspire.export register --config train/configs/pydocs.toml

A registered version is a model that `mlflow.pyfunc.load_model("models:/pydocs@champion")` loads in any
process. The alias `challenger` is the version that was registered last, until it becomes the champion, and
`champion` the version that is served. Only `audit_log.commit` moves the champion.
"""

import os
import subprocess
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from twinspire.export.bundles import BUNDLES
from twinspire.protos import bundle, entry_points
from twinspire.protos.bundle import EXACT, HNSW, REMOTE_KINDS
from twinspire.protos.errors import BundleDamaged, MissingStage, TwinspireError
from twinspire.protos.files.tokenizer import TOKENIZER
from twinspire.protos.mlflow_keys import BUNDLE_VERSION, INDEX_KIND
from twinspire.protos.nearest.scores import LOWEST_SCORE
from twinspire.protos.vector_databases.database import collection_name, database_of
from twinspire.train.paths import ROOT
from twinspire.train.training.tracking import get_run, is_absent, mlflow_errors, unreachable

CHALLENGER, CHAMPION = "challenger", "champion"  # aliases
# Packages that every registered model needs.
RUNTIME = ("numpy", "onnxruntime", "protobuf", "pyroaring", "PyStemmer", "mlflow")


@dataclass(frozen=True)
class AliasState:
    """The versions that have the aliases at one moment.

    Args:
        champion: empty if there is none.
        challenger: None if there is none.
    """

    champion: str
    challenger: str | None

    @classmethod
    def of(cls, name: str) -> "AliasState":
        """The aliases of a registered model now.

        Raises:
            Unavailable: the registry does not answer.
        """
        champion, challenger = by_alias(name, CHAMPION), by_alias(name, CHALLENGER)
        return cls(
            "" if champion is None else str(champion.version),
            None if challenger is None else str(challenger.version),
        )


def register(folder: Path, run_id: str = "") -> tuple[ModelVersion, bool]:
    """The bundle as a model version, and whether it was registered before.

    It gets the alias `challenger`, unless it is the champion already. What its index keeps outside of the
    bundle is written if it is not there, and again if `prune` drops it meanwhile.

    Args:
        run_id: the run that gets the version and its figures; by default the run that trained the towers.

    Raises:
        BundleError: the bundle is damaged.
        MissingStage: MLflow does not know the run that trained its towers.
        Unavailable: the registry does not answer, or a server of the index.
    """
    manifest = bundle.read(folder)
    _publish(folder, manifest)
    with mlflow_errors():
        known = _version_of(manifest)
        registered = known is not None
        if known is None:
            get_run(manifest.run_id)
            known = _log_model(folder, manifest, run_id or manifest.run_id)
        if AliasState.of(manifest.name).champion != str(known.version):
            mlflow.MlflowClient().set_registered_model_alias(manifest.name, CHALLENGER, str(known.version))
            _publish(folder, manifest)  # `prune` may have dropped it before there was an alias
    return known, registered


def _publish(folder: Path, manifest: bundle.Manifest) -> None:
    """Write what the index keeps outside of the bundle, if anything; raises what `publish` raises."""
    if manifest.index.kind not in (HNSW, EXACT):  # these two keep nothing outside of the bundle
        from twinspire.export.bundle_files import publish  # imports torch, and all that builds an index

        publish(folder)


def retire_challenger(name: str, number: str) -> None:
    """Take the alias `challenger` off a version that is champion now; another challenger keeps it."""
    waiting = by_alias(name, CHALLENGER)
    if waiting is not None and str(waiting.version) == number:
        mlflow.MlflowClient().delete_registered_model_alias(name, CHALLENGER)


def by_alias(name: str, alias: str) -> ModelVersion | None:
    """The version that has an alias; None if there is none.

    Raises:
        Unavailable: the registry does not answer.
    """
    return _found(mlflow.MlflowClient().get_model_version_by_alias, name, alias)


def by_version(name: str, number: str) -> ModelVersion:
    """The version with a number.

    Raises:
        MissingStage: it does not exist, or was deleted.
        Unavailable: the registry does not answer.
    """
    found = _found(mlflow.MlflowClient().get_model_version, name, number)
    if found is None:
        raise MissingStage(f"{name}: there is no version {number}")
    return found


def _found(ask: Callable[[str, str], ModelVersion], name: str, which: str) -> ModelVersion | None:
    try:
        return ask(name, which)
    except MlflowException as error:
        if is_absent(error):
            return None
        raise unreachable(error) from None


def expect_collection(name: str, number: str) -> None:
    """Check that a version whose items are in a vector database has its collection there.

    Raises:
        ConfigError: the environment names no server of it.
        MissingStage: there is no such collection, or no such version.
        Unavailable: the registry or that server does not answer.
    """
    tags = by_version(name, number).tags
    if (kind := tags.get(INDEX_KIND)) not in REMOTE_KINDS:
        return
    try:
        collection = collection_name(tags.get(BUNDLE_VERSION, ""))
    except ValueError as error:
        raise MissingStage(f"{name}: version {number}: tag {BUNDLE_VERSION}: {error}") from None
    with closing(database_of(kind)()) as database:
        is_there = collection in database.names()
    if not is_there:
        raise MissingStage(
            f"{name}: version {number} cannot be served: there is no collection {collection} in "
            f"{database.title}; `python -m twinspire.export register --bundle FOLDER`, with its bundle, "
            "writes it again"
        )


def fetch(name: str, number: str) -> tuple[Path, bundle.Manifest]:
    """Download the bundle of a version; returns its local folder and its manifest.

    A bundle that is complete on this disk is not downloaded again: its version is the hash of its content.

    Raises:
        TwinspireError: the bundle cannot be downloaded, or is damaged; the text says why.
    """
    command = entry_points.command(entry_points.BUNDLES, f"models:/{name}/{number}", str(BUNDLES))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        reason = errors[-1].removeprefix("error: ")
        raise TwinspireError(f"{name}: version {number} cannot be downloaded: {reason}")
    folder = Path(done.stdout.splitlines()[-1])
    return folder, bundle.read(folder)  # the other process has verified it, and its warnings are not shown


def _version_of(manifest: bundle.Manifest) -> ModelVersion | None:
    found = mlflow.MlflowClient().search_model_versions(
        f"name = '{manifest.name}' and tag.`{BUNDLE_VERSION}` = '{manifest.bundle_version}'"
    )
    return found[0] if found else None


def _packages(manifest: bundle.Manifest) -> tuple[str, ...]:
    """The packages that the model of a bundle needs."""
    tokens = ("tokenizers",) if TOKENIZER in manifest.schema.files() else ()
    return (*RUNTIME, *tokens, *(database_of(manifest.index.kind).packages if manifest.is_remote else ()))


def _log_model(folder: Path, manifest: bundle.Manifest, run_id: str) -> ModelVersion:
    """Store the files of the bundle in its logged model, and register that.

    The run has ended, and stays so. `mlflow.pyfunc.log_model` logs to an active run only, which a killed
    process would leave as running; `Model.log`, which it calls, does without one.

    Raises:
        BundleDamaged: the bundle has no example queries.
    """
    from twinspire.export.logged_model import log_bundle  # imports torch, as the next
    from twinspire.export.release.model_card import (
        as_input,
        card,
        lineage,
        model_description,
        model_tags,
    )

    if not manifest.examples:
        raise BundleDamaged(f"{folder}: has no example queries; the model declares its input by the first")
    example = [as_input(manifest.examples[0])]
    parameters = {"k": 10, "exclude_history": manifest.excludes_history, "filter": "", "fusion": ""}
    parameters["min_score"] = LOWEST_SCORE
    client, model = mlflow.MlflowClient(), log_bundle(folder, run_id)
    with warnings.catch_warnings(record=True) as caught, TemporaryDirectory() as scratch:
        code = Path(scratch) / "twinspire"  # a copy of it in the model has the name by which it is imported
        code.mkdir()
        for each in ("serving", "protos"):
            (code / each).symlink_to(ROOT / each)
        logged = Model.log(
            None,
            mlflow.pyfunc,
            model_id=model.model_id,
            flavor_name="pyfunc.ModelFromCode",  # of a model whose `python_model` is a file
            python_model=str(ROOT / "serving" / "pyfunc_model.py"),
            artifacts={"bundle": str(folder)},
            code_paths=[str(code)],
            input_example=(example, parameters),
            pip_requirements=[f"{package}=={version(package)}" for package in _packages(manifest)],
        )
    for warning in caught:  # MLflow has no type hint for "a text or a table of features", and warns about it
        if "Any type hint" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    with suppress(MlflowException):  # it exists
        client.create_registered_model(manifest.name, model_tags(manifest), model_description(manifest))
    return client.create_model_version(
        manifest.name,
        logged.model_uri,
        run_id,
        tags=lineage(manifest),
        description=card(manifest),
        model_id=logged.model_id,
    )
