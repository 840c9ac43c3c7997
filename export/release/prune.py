"""Drops the collections of a model's bundles that no alias can come back to, on all servers that are named.

    python -m twinspire.export prune --config train/configs/pydocs.toml

Kept are the collections of the versions with an alias, whatever its name, and of the champions that
`audit_log.versions_to_keep` names, so that a rollback finds its own. Of a bundle that is registered under
several names the collection is kept if one of them needs it. Those of other models' bundles stay, and of
bundles that this registry does not know. Drafts that an interrupted export has left are dropped when they are
a day old.

The aliases are read right before a collection is dropped, and once more after it. A release looks for the
collection after it has moved an alias. So if both happen at the same moment, one of the two notices.
"""

import logging
import os
import time
from argparse import Namespace
from contextlib import closing
from typing import Any

import mlflow

from twinspire.export.release import audit_log
from twinspire.export.release.registry import CHAMPION
from twinspire.protos.bundle import REMOTE_KINDS
from twinspire.protos.errors import ConfigError, MissingStage
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.protos.vector_databases.database import (
    bundle_of,
    database_of,
    draft_seconds,
    uri_variable,
)
from twinspire.train.config import Experiment
from twinspire.train.training.tracking import mlflow_errors

log = logging.getLogger(__name__)

DROP_SECONDS = 60.0  # to drop one collection
DRAFT_SECONDS = 86_400  # age of a draft that is no longer being written


def command(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """The command `prune`: drop the collections that no alias of the model can come back to."""
    return prune(experiment.name, arguments.dry_run)


def prune(name: str, dry_run: bool = False) -> dict[str, Any]:
    """Drop the collections of a registered model that are no longer needed.

    Args:
        name: of the model.
        dry_run: only tell which they are.

    Raises:
        ConfigError: the environment names no vector database.
        MissingStage: a version got an alias while its collection was dropped.
        Unavailable: the registry or the server does not answer.
    """
    variables = {kind: uri_variable(kind) for kind in sorted(REMOTE_KINDS)}
    named = [kind for kind, variable in variables.items() if os.environ.get(variable)]
    if not named:
        raise ConfigError(f"prune: expected a server in {' or '.join(variables.values())}")
    kept: list[str] = []
    dropped: list[str] = []
    too_late: list[str] = []  # that a version has needed while they were dropped
    for kind in named:
        with closing(database_of(kind)()) as database, mlflow_errors():
            for each in sorted(database.names()):
                is_needed = _is_needed(each, name)
                if is_needed is not None:
                    (kept if is_needed else dropped).append(each)
                if is_needed is False and not dry_run:
                    database.drop(each, DROP_SECONDS)
                    log.info("%s: dropped %s", name, each)
                    if bundle_of(each) and _is_needed(each, name):
                        too_late.append(each)
    if too_late:
        raise MissingStage(
            f"{name}: a version got an alias while its collection was dropped: {', '.join(too_late)}; "
            "`python -m twinspire.export register --bundle FOLDER`, with its bundle, writes it again; "
            f"dropped: {', '.join(dropped)}"
        )
    return {"name": name, "dry_run": dry_run, "kept": kept, "dropped": dropped}


def _is_needed(collection: str, name: str) -> bool | None:
    """True: an alias needs the collection. False: it is to be dropped. None: it stays, as that of another
    model, or as a draft that may still be written.
    """
    version = bundle_of(collection)
    if version is None:
        since = draft_seconds(collection)
        return False if since is not None and time.time() - since > DRAFT_SECONDS else None
    registered = mlflow.MlflowClient().search_model_versions(f"tag.`{BUNDLE_VERSION}` = '{version}'")
    if any(version.name == name for version in registered):
        return any(str(version.version) in _needed(version.name) for version in registered)
    return None


def _needed(name: str) -> set[str]:
    """Numbers of the versions of a model whose collections are kept."""
    aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    champion = str(aliases.get(CHAMPION, ""))
    targets = audit_log.versions_to_keep(audit_log.read(name), champion)
    return {*map(str, aliases.values()), *targets}
