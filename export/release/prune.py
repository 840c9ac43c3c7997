"""Drops the collections of a model's bundles that no alias can come back to.

    python -m export prune --config train/configs/pydocs.toml

Kept are the collections of the versions with an alias, whatever its name, and of the `SPARE` champions before
this one, so that a rollback finds its own. Of a bundle that is registered under several names the collection
is kept if one of them needs it. Those of other models' bundles stay, and of bundles that this registry does
not know, unless `unregistered_days` says otherwise. Drafts that an interrupted export has left are dropped
when they are a day old.
"""

import time
from functools import cache
from typing import Any

import mlflow

from export.release import audit_log, lock
from export.release.registry import registry_errors
from protos.mlflow_keys import BUNDLE_VERSION
from protos.release_records import CHAMPION
from protos.vector_databases.milvus import (
    CONNECT_SECONDS,
    PREFIX,
    WRITE_SECONDS,
    Server,
    bundle_of,
    created_seconds,
    draft_seconds,
    server_errors,
)

SPARE = 2  # champions before this one whose collections are kept
DAY_SECONDS = 86_400
DRAFT_SECONDS = DAY_SECONDS  # age of a draft that is no longer being written


def prune(name: str, dry_run: bool = False, unregistered_days: int = 0) -> dict[str, Any]:
    """Drop the collections of a registered model that are no longer needed.

    Do not register bundles of other models on the same server meanwhile: only the releases of `name` wait.

    Args:
        name: of the model.
        dry_run: only tell which they are.
        unregistered_days: if not 0, also drop the collections of bundles that this registry does not know, if
            the collections are older than this number of days. A collection stays if the server does not
            report its age. Bundles that are registered only in another registry count as unknown.

    Raises:
        ConfigError: the environment names no Milvus server.
        Unavailable: the registry or the server does not answer, or a release is under way.
    """
    client = Server.from_environment().connect()
    registry, needed = mlflow.MlflowClient(), cache(_needed)
    kept: list[str] = []
    dropped: list[str] = []
    with (
        lock.acquire(name, audit_log.actor()),
        registry_errors(),
    ):  # an alias that moves meanwhile would need another answer
        with server_errors():
            found = [
                each for each in client.list_collections(timeout=CONNECT_SECONDS) if each.startswith(PREFIX)
            ]
        for each in sorted(found):
            version = bundle_of(each)
            if version is None:
                if _is_older(draft_seconds(each), DRAFT_SECONDS):
                    dropped.append(each)
                continue
            registered = registry.search_model_versions(f"tag.`{BUNDLE_VERSION}` = '{version}'")
            if any(one.name == name for one in registered):
                is_needed = any(str(one.version) in needed(one.name) for one in registered)
                (kept if is_needed else dropped).append(each)
            elif (
                unregistered_days
                and not registered
                and _is_older(created_seconds(client, each), unregistered_days * DAY_SECONDS)
            ):
                dropped.append(each)
        with server_errors():
            for each in () if dry_run else dropped:
                client.drop_collection(each, timeout=WRITE_SECONDS)
    return {"name": name, "dry_run": dry_run, "kept": kept, "dropped": dropped}


def _needed(name: str) -> set[str]:
    """Numbers of the versions of a model whose collections are kept."""
    aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    champion = str(aliases.get(CHAMPION, ""))
    before = audit_log.promoted_versions(audit_log.read(name), champion)[-1 - SPARE :]
    return {*map(str, aliases.values()), *before}


def _is_older(since: float | None, seconds: float) -> bool:
    return since is not None and time.time() - since > seconds
