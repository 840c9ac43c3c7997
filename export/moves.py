"""One move of the champion, on record: the lock is held by then, and what is to happen decided."""

import contextlib
import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion

from export import lock, trail
from export.registry import CHALLENGER, CHAMPION, by_alias
from protos.mlflow_names import STAGE
from train.tracking import environment, experiment_id


def actor() -> str:
    """User and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True)
class Standing:
    """Champion and challenger at one moment; the champion is empty where there is none."""

    champion: str
    challenger: str | None

    @classmethod
    def of(cls, name: str) -> "Standing":
        """As it is now."""
        champion, challenger = by_alias(name, CHAMPION), by_alias(name, CHALLENGER)
        return cls(_number(champion), _number(challenger) or None)


def _number(version: ModelVersion | None) -> str:
    return "" if version is None else str(version.version)


@contextmanager
def recorded(name: str, title: str) -> Iterator[str]:
    """A run for one record. Its end is set with the move; it fails if the block does."""
    client = mlflow.MlflowClient()
    tags = {STAGE: trail.RELEASE, "mlflow.user": actor().partition("@")[0], **environment()}
    run_id = client.create_run(experiment_id(name), tags=tags, run_name=f"release: {title}").info.run_id
    try:
        yield run_id
    except BaseException:
        with contextlib.suppress(Exception):  # what was raised says more
            client.set_terminated(run_id, "FAILED")
        raise


def move(
    name: str,
    held: lock.Lock,
    run_id: str,
    action: trail.Action,
    before: str,
    after: str,
    summary: list[dict[str, Any]] | None = None,
    reason: str = "",
) -> trail.Record:
    """The record, then the alias, then the end of the run: killed between, it leaves a trace."""
    client = mlflow.MlflowClient()
    held.check()
    record = trail.append(name, run_id, actor(), action, before, after, summary or (), reason, held.broke)
    if action in trail.MOVES:
        held.check()
        client.set_registered_model_alias(name, CHAMPION, after)
    client.set_terminated(run_id, "FINISHED")
    return record
