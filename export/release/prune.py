"""Drops the collections of a model's bundles that no alias can come back to.

    python -m export prune --config train/configs/pydocs.toml

Kept are the collections of the champion, of the challenger and of the `SPARE` champions before, so that a
rollback finds its own. A bundle that was never registered keeps its collection too, and so do bundles of
other models. Collections that an interrupted export has left are dropped when they are a day old.
"""

import time
from typing import Any

import mlflow

from export.release import audit_log, lock
from export.release.registry import AliasState, registry_errors
from protos.milvus import (
    CONNECT_SECONDS,
    PREFIX,
    WRITE_SECONDS,
    Server,
    bundle_of,
    draft_seconds,
    server_errors,
)
from protos.mlflow_keys import BUNDLE_VERSION

SPARE = 2  # champions before this one whose collections are kept
DRAFT_SECONDS = 86_400  # age of a draft that is no longer being written


def prune(name: str, dry_run: bool = False) -> dict[str, Any]:
    """Drop the collections of a registered model that are no longer needed.

    Args:
        name: of the model.
        dry_run: only tell which they are.

    Raises:
        ConfigError: the environment names no Milvus server.
        Unavailable: the registry or the server does not answer, or a release is under way.
    """
    client = Server.from_environment().connect()
    with (
        lock.acquire(name, audit_log.actor()),
        registry_errors(),
    ):  # an alias that moves meanwhile would need another answer
        bundles, needed = _bundles(name), _needed(name)
        with server_errors():
            found = [
                each for each in client.list_collections(timeout=CONNECT_SECONDS) if each.startswith(PREFIX)
            ]
            kept = sorted(
                each for each in found if bundle_of(each) in {bundles[n] for n in needed & {*bundles}}
            )
            dropped = [
                each
                for each in found
                if each not in kept and (bundle_of(each) in bundles.values() or _is_abandoned(each))
            ]
            for each in () if dry_run else dropped:
                client.drop_collection(each, timeout=WRITE_SECONDS)
    return {"name": name, "dry_run": dry_run, "kept": kept, "dropped": sorted(dropped)}


def _bundles(name: str) -> dict[str, str]:
    """Number -> bundle version of all registered versions of a model."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return {str(each.version): each.tags[BUNDLE_VERSION] for each in found if BUNDLE_VERSION in each.tags}


def _needed(name: str) -> set[str]:
    """Numbers of the versions whose collections are kept."""
    now = AliasState.of(name)
    before = audit_log.promoted_versions(audit_log.read(name), now.champion)[-1 - SPARE :]
    return {now.champion, now.challenger or "", *before} - {""}


def _is_abandoned(collection: str) -> bool:
    since = draft_seconds(collection)
    return since is not None and time.time() - since > DRAFT_SECONDS
