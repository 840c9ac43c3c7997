"""The commands that move or show a registered model, and compute nothing: `register`, `rollback`, `history`.

They are apart from `export/commands.py` because they import nothing that trains or measures. Only for a
bundle that is new to the registry does `register` import torch, because the model card names the baselines.
"""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from export.bundles import find_bundle
from export.release import registry
from export.release.history import history as history_of
from export.release.rollback import rollback as roll_back
from protos.cli import imports_frozen
from protos.release_records import CHAMPION
from train.config import read_experiment
from train.training.tracking import connect


def register(arguments: Namespace) -> dict[str, Any]:
    """Put a bundle into the MLflow model registry, as the challenger."""
    connect()
    experiment = read_experiment(arguments.config)
    folder, manifest = find_bundle(experiment, arguments.bundle)
    version, reused = registry.register(folder)
    is_champion = registry.AliasState.of(manifest.name).champion == str(version.version)
    return {
        "model": f"models:/{manifest.name}/{version.version}",
        "alias": CHAMPION if is_champion else registry.CHALLENGER,
        "bundle_version": manifest.bundle_version,
        "reused": reused,
    }


def rollback(arguments: Namespace) -> dict[str, Any]:
    """Make the champion before this one the champion again, or the version that is named."""
    connect()
    name = read_experiment(arguments.config).name
    move = roll_back(name, arguments.to, arguments.reason)
    version = move.after if move else arguments.to
    return {
        "model": f"models:/{name}/{version}",
        "alias": CHAMPION,
        "move": move and asdict(move),
    }


def prune(arguments: Namespace) -> dict[str, Any]:
    """Drop the collections on the Milvus server that no alias of the model can come back to."""
    from export.release.prune import prune as drop

    connect()
    return drop(read_experiment(arguments.config).name, arguments.dry_run, arguments.unregistered_days)


def history(arguments: Namespace) -> dict[str, Any]:
    """Print every promotion, refusal and rollback of the champion, and whether the record is whole."""
    with imports_frozen():  # MLflow imports its store when it is first asked
        connect()
        return history_of(read_experiment(arguments.config).name)
