"""The commands that move or show a registered model, and compute nothing: `register`, `rollback`, `history`.

They are apart from `promote.py` because they import nothing that trains or measures. Only for a bundle that
is new to the registry does `register` import torch, because the model card names the baselines.
"""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from twinspire.export.bundles import find_bundle
from twinspire.export.release import audit_log, registry
from twinspire.export.release.audit_log import ReleaseRecord
from twinspire.export.release.registry import CHAMPION, AliasState, by_version
from twinspire.protos.cli import imports_frozen
from twinspire.protos.errors import GateRefused, MissingStage
from twinspire.train.config import Experiment
from twinspire.train.training.tracking import mlflow_errors


def register(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Put a bundle into the MLflow model registry, as the challenger."""
    folder, manifest = find_bundle(experiment, arguments.bundle)
    version, reused = registry.register(folder)
    is_champion = AliasState.of(manifest.name).champion == str(version.version)
    return {
        "model": f"models:/{manifest.name}/{version.version}",
        "alias": CHAMPION if is_champion else registry.CHALLENGER,
        "bundle_version": manifest.bundle_version,
        "reused": reused,
    }


def rollback(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Make the champion before this one the champion again, or the version that is named."""
    record = roll_back(experiment.name, arguments.to, arguments.reason)
    version = record.after if record else arguments.to
    return {
        "model": f"models:/{experiment.name}/{version}",
        "alias": CHAMPION,
        "move": record and asdict(record),
    }


def roll_back(name: str, to: str = "", reason: str = "") -> ReleaseRecord | None:
    """Make an earlier champion the champion again, at once: nothing is compared or downloaded.

    Args:
        to: the version; by default the one that was champion before. A rollback after a rollback goes one
            version further back.
        reason: required for a version that never was champion, because it has passed no gate.

    Returns:
        The record; None if that version is champion already.

    Raises:
        ConfigError: its index is in a vector database, and the environment names none.
        MissingStage: there is no champion before this one, or no such version, or its index is in a
            vector database and its collection is not there any more.
        GateRefused: the version never was champion, and no reason is given.
        Unavailable: the registry or that server does not answer, or another version became champion
            meanwhile.
    """
    with mlflow_errors():
        before, after = _target(name, to, reason)
        if before == after:
            return None
        with audit_log.release_run(name, f"back to version {after}") as run_id:
            return audit_log.commit(name, run_id, "rollback", before, after, reason=reason)


def _target(name: str, to: str, reason: str) -> tuple[str, str]:
    """The champion now, and the version to roll back to."""
    champion = AliasState.of(name).champion
    known = audit_log.read(name)
    if not to:
        versions = audit_log.promoted_versions(known, champion)
        if len(versions) < 2:
            raise MissingStage(f"{name}: there is no champion before this one to go back to")
        try:
            return champion, str(by_version(name, versions[-2]).version)
        except MissingStage as error:
            raise MissingStage(f"{error} any more to go back to; TO=version names another") from None
    after = str(by_version(name, to).version)
    champions = {champion} | {
        version
        for entry, moved in zip(known.entries, known.moved(champion), strict=True)
        for version in (entry.record.before, entry.record.after if moved else "")
    }
    if after not in champions and not reason:
        raise GateRefused(
            f"{name}: version {after} never was champion, so it has passed no gate; "
            'give a reason (REASON="...") to roll back to it anyway'
        )
    return champion, after


def history(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """Print every record of the audit log, and what is wrong with it."""
    with imports_frozen():  # MLflow imports its store when it is first asked
        return audit_log_of(experiment.name)


def audit_log_of(name: str) -> dict[str, Any]:
    """All records of the audit log, oldest first, with what is wrong with them, and moves of the alias that
    have no record.

    Raises:
        Unavailable: the registry does not answer.
    """
    with mlflow_errors():
        known = audit_log.read(name)
        champion = AliasState.of(name).champion
    records = [
        asdict(entry.record)
        | {"run_id": entry.run_id, "outcome": "done" if entry.is_complete else "incomplete", "moved": moved}
        for entry, moved in zip(known.entries, known.moved(champion), strict=True)
    ]
    problems = audit_log.problems(known)
    return {
        "name": name,
        "champion": champion,
        "records": records,
        "intact": not problems,
        "problems": problems,
        "beside": _unrecorded_moves(records, champion),
    }


def _unrecorded_moves(records: list[dict[str, Any]], champion: str) -> list[str]:
    """Moves of the alias without a record, in words."""
    found, expected = [], records[0]["before"] if records else champion
    for record in records:
        if record["before"] != expected:
            found.append(
                f"before record {record['number']}: from {expected or 'none'} to {record['before'] or 'none'}"
            )
        expected = record["after"] if record["moved"] else record["before"]
    if expected != champion:
        found.append(f"since the last record: from {expected or 'none'} to {champion or 'none'}")
    return found
