"""Bundles in the MLflow model registry: register, promote by alias, roll back.

    python -m export register | promote | rollback --config train/configs/pydocs.toml

A registered version is a model that `mlflow.pyfunc.load_model("models:/pydocs@champion")` loads in any
process. `challenger` is the version registered last, `champion` the one that is served. Every move of the
champion is written to a trail of tags on the registered model, and a rollback reads it.
"""

import getpass
import json
import socket
import tempfile
import warnings
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from protos import bundle
from protos.errors import BundleDamaged, GateRefused, MissingStage
from train.places import ROOT
from train.tracking import get_run, is_absent, unreachable

CHALLENGER = "challenger"
CHAMPION = "champion"
BUNDLE_VERSION = "bundle_version"
TRAIL = "trail."
RUNTIME = ("numpy", "onnxruntime", "hnswlib", "protobuf", "mlflow")


@dataclass(frozen=True)
class Move:
    """One move of the champion alias.

    Args:
        at: UTC time, ISO 8601.
        actor: user and host.
        action: `promote` or `rollback`.
        before: version that was champion, empty if none was.
        after: version that is champion now.
    """

    at: str
    actor: str
    action: str
    before: str
    after: str


def register(folder: Path) -> tuple[ModelVersion, bool]:
    """The bundle as a model version with alias `challenger`, and whether it had been one already.

    Raises:
        BundleError: the bundle is damaged.
        MissingStage: the run that trained its towers is tracked elsewhere.
    """
    manifest = bundle.read(folder)
    known = _version_of(manifest)
    if known is None:
        get_run(manifest.run_id)
        _log_model(folder, manifest)
        known = _version_of(manifest)
        assert known is not None
        registered = False
    else:
        registered = True
    mlflow.MlflowClient().set_registered_model_alias(manifest.name, CHALLENGER, known.version)
    return known, registered


def promote(name: str) -> tuple[Move | None, ModelVersion]:
    """Make the challenger the champion, if its parity and index recall hold.

    Returns:
        the move, or None where the challenger is the champion already; and the version.

    Raises:
        MissingStage: there is no challenger.
        GateRefused: a figure is outside its bound.
    """
    challenger = by_alias(name, CHALLENGER)
    if challenger is None:
        raise MissingStage(f"{name}: no version is {CHALLENGER}; `make register` makes one")
    check_gates(manifest_of(challenger))
    champion = by_alias(name, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        return None, challenger
    return _move(name, "promote", champion, challenger.version), challenger


def rollback(name: str) -> Move:
    """Make the champion before this one the champion again.

    Raises:
        MissingStage: the trail knows of none before.
    """
    champion = by_alias(name, CHAMPION)
    standing: list[str] = []  # versions that were promoted and not rolled back
    for move in trail(name) if champion is not None else ():
        if move.action == "promote":
            standing.append(move.after)
        elif standing:
            standing.pop()
    if champion is None or len(standing) < 2:
        raise MissingStage(f"{name}: there is no champion before this one to go back to")
    return _move(name, "rollback", champion, standing[-2])


def check_gates(manifest: bundle.Manifest) -> None:
    """Parity and index recall, as they were measured on the bundle.

    Raises:
        GateRefused: naming the figure and its bound.
    """
    for side, report in manifest.parity.items():
        if not report["max_abs_diff"] <= report["tolerance"]:
            raise GateRefused(
                f"parity of the {side} tower: max_abs_diff {report['max_abs_diff']:.2e} "
                f"is above {report['tolerance']:.0e}"
            )
    for name, recall in manifest.ann.items():
        if name.startswith("ann_recall") and not recall >= manifest.ann["target"]:
            raise GateRefused(f"{name} {recall:.4f} is below {manifest.ann['target']}")


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


def manifest_of(model: ModelVersion) -> bundle.Manifest:
    """The manifest inside a model version.

    Raises:
        BundleDamaged: the version holds no bundle, or its manifest is damaged.
    """
    uri = f"models:/{model.name}/{model.version}"
    held = mlflow.artifacts.list_artifacts(f"{uri}/artifacts")
    folders = [each.path for each in held or [] if each.is_dir]
    if len(folders) != 1:
        raise BundleDamaged(f"{uri}: holds {len(folders)} bundles, expected one")
    with tempfile.TemporaryDirectory() as folder:
        remote = f"{uri}/artifacts/{Path(folders[0]).name}/{bundle.MANIFEST}"
        path = mlflow.artifacts.download_artifacts(remote, dst_path=folder)
        return bundle.read_manifest(Path(path).parent)


def trail(name: str) -> list[Move]:
    """All moves of the champion, oldest first."""
    tags = mlflow.MlflowClient().get_registered_model(name).tags
    return [Move(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(TRAIL)]


def _version_of(manifest: bundle.Manifest) -> ModelVersion | None:
    found = mlflow.MlflowClient().search_model_versions(
        f"name = '{manifest.name}' and tag.`{BUNDLE_VERSION}` = '{manifest.bundle_version}'"
    )
    return found[0] if found else None


def _log_model(folder: Path, manifest: bundle.Manifest) -> None:
    """Into the run that trained the towers, and from there into the registry."""
    example = [_example(manifest)]
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
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(manifest.name)
    except MlflowException:  # it is there
        client.get_registered_model(manifest.name)
    client.create_model_version(
        manifest.name,
        logged.model_uri,
        manifest.run_id,
        tags={BUNDLE_VERSION: manifest.bundle_version, "split_hash": manifest.split_hash},
        description=_description(manifest),
        model_id=logged.model_id,
    )


def _example(manifest: bundle.Manifest) -> Any:
    """The first example as a model takes it: a text where that is all there is, else features by name."""
    query = manifest.examples[0]
    (only, *others) = query.values()
    return only if isinstance(only, str) and not others else query


def _description(manifest: bundle.Manifest) -> str:
    ann = ", ".join(f"{k} {v:.4f}" for k, v in manifest.ann.items() if k.startswith("ann_recall"))
    return (
        f"{manifest.count:,} items, D = {manifest.dimension}; {manifest.quality['verdict']}; "
        f"{ann}; bundle {manifest.bundle_version[:12]}"
    )


def _move(name: str, action: str, champion: ModelVersion | None, after: str) -> Move:
    now = datetime.now(UTC)
    before = champion.version if champion is not None else ""
    actor = f"{getpass.getuser()}@{socket.gethostname()}"
    move = Move(now.isoformat(timespec="milliseconds"), actor, action, str(before), str(after))
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(name, CHAMPION, str(after))
    client.set_registered_model_tag(name, f"{TRAIL}{now:%Y%m%dT%H%M%S%f}", json.dumps(asdict(move)))
    return move
