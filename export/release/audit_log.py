"""The audit log of a model: every promotion, refusal, forced promotion and rollback of its champion.

Each record is one MLflow run in the model's experiment. The run has the record in its tag `RECORD_TAG`, and
the report of the gates as artefacts. Records are numbered, and each holds the sha256 of the one before. The
registered model's tag `NEWEST_TAG` holds number and sha256 of the newest record. So a record that was
altered, removed or inserted is found. The tags have older names: `twinspire.move` and `twinspire.trail`.

`commit` writes the record first, then moves the alias, then ends the run. If a process died in between, the
`before` of the next record, or the alias itself, shows whether the alias was moved.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from export.release.lock import ReleaseLock, actor
from export.release.registry import retire_challenger
from protos.documents import parse_json
from protos.errors import InvalidInput
from protos.mlflow_keys import STAGE
from protos.release_records import (
    CHAMPION,
    MOVING_ACTIONS,
    REASON_LENGTH,
    RECORD_LENGTH,
    RECORD_TAG,
    RELEASE,
    Action,
    ReleaseRecord,
    moved_alias,
    parse_record,
)
from train.training.tracking import environment, experiment_id, is_absent

NEWEST_TAG = "twinspire.trail"  # of the registered model
EARLIER_CHAMPIONS = 2  # whose files are kept for a rollback


@dataclass(frozen=True)
class Entry:
    """A record and the run that holds it.

    Args:
        text: the record as it was written.
        status: of the run; `FINISHED` once the alias was moved.
        deleted: the run was deleted; MLflow keeps it for a while.
    """

    record: ReleaseRecord
    text: str
    run_id: str
    status: str
    deleted: bool

    @property
    def sha256(self) -> str:
        """The next record's `previous`."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class AuditLog:
    """All records of a model, oldest first.

    Args:
        unreadable: ids of runs whose record cannot be parsed.
        newest: number and sha256 of the newest record, as the registry has it; 0 if it has none.
    """

    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]
    newest: tuple[int, str]

    def moved(self, champion: str) -> list[bool]:
        """For each entry, whether it moved the alias.

        Args:
            champion: the version that is champion now.
        """
        records = [entry.record for entry in self.entries]
        return moved_alias(records, [entry.status for entry in self.entries], champion)


@contextmanager
def release_run(name: str, title: str) -> Iterator[str]:
    """A new run for one record; gives its id. `commit` ends the run. If the block raises, the run fails.

    Args:
        name: of the registered model and of its experiment.
        title: of the run.
    """
    client = mlflow.MlflowClient()
    tags = {STAGE: RELEASE, "mlflow.user": actor().partition("@")[0], **environment()}
    run_id = client.create_run(experiment_id(name), tags=tags, run_name=f"release: {title}").info.run_id
    try:
        yield run_id
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to show
            client.set_terminated(run_id, "FAILED")
        raise


def commit(
    held: ReleaseLock,
    run_id: str,
    action: Action,
    before: str,
    after: str,
    gates: Iterable[Mapping[str, Any]] = (),
    reason: str = "",
) -> ReleaseRecord:
    """Write the record, then move the alias if the action does so, then end the run.

    The version that becomes champion loses the alias `challenger`.

    Args:
        held: the release lock of the model.
        run_id: of a `release_run`.

    Raises:
        InvalidInput: the record is too long; nothing was written.
        Unavailable: the lock was lost.
    """
    client = mlflow.MlflowClient()
    held.check()
    record = append(held.name, run_id, actor(), action, before, after, gates, reason, held.broke)
    if action in MOVING_ACTIONS:
        held.check()
        client.set_registered_model_alias(held.name, CHAMPION, after)
        retire_challenger(held.name, after)
    client.set_terminated(run_id, "FINISHED")
    return record


def read(name: str) -> AuditLog:
    """The audit log of a registered model; empty if it has none."""
    entries, unreadable = [], []
    for run in _runs(name):
        text = run.data.tags[RECORD_TAG]
        try:
            record = parse_record(text)
        except (ValueError, TypeError):
            unreadable.append(run.info.run_id)
            continue
        deleted = run.info.lifecycle_stage != "active"
        entries.append(Entry(record, text, run.info.run_id, run.info.status, deleted))
    entries.sort(key=lambda entry: (entry.record.number, entry.record.at))
    return AuditLog(tuple(entries), tuple(unreadable), _newest(name))


def append(
    name: str,
    run_id: str,
    actor: str,
    action: Action,
    before: str,
    after: str,
    gates: Iterable[Mapping[str, Any]] = (),
    reason: str = "",
    broke: tuple[str, ...] = (),
) -> ReleaseRecord:
    """Write the next record into a run. The caller must hold the release lock.

    Args:
        gates: with `name`, `figure`, `bound` and `holds`; a figure that is not finite becomes None.
        broke: descriptions of the release locks that were broken.

    Raises:
        InvalidInput: the record is too long for a tag of a run; nothing was written.
    """
    known = read(name).entries
    record = ReleaseRecord(
        number=known[-1].record.number + 1 if known else 1,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        actor=actor,
        action=action,
        before=before,
        after=after,
        gates=tuple({key: _finite(value) for key, value in gate.items()} for gate in gates),
        reason=reason[:REASON_LENGTH],
        previous=known[-1].sha256 if known else "",
        broke=broke,
    )
    text = json.dumps(asdict(record), ensure_ascii=False, sort_keys=True, allow_nan=False)
    if len(text) > RECORD_LENGTH:
        raise InvalidInput(
            "record of the release",
            f"expected at most {RECORD_LENGTH:,} characters of JSON, got {len(text):,}; shorten the reason",
        )
    client = mlflow.MlflowClient()
    client.set_tag(run_id, RECORD_TAG, text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    client.set_registered_model_tag(name, NEWEST_TAG, json.dumps({"number": record.number, "sha256": digest}))
    return record


def problems(log: AuditLog) -> list[str]:
    """What is wrong with an audit log, one sentence each; empty if every record is as it was written."""
    found = [f"run {run_id}: its record cannot be read" for run_id in log.unreadable]
    found += [f"record {e.record.number}: its run {e.run_id} was deleted" for e in log.entries if e.deleted]
    before: Entry | None = None
    for entry in log.entries:
        number, expected = entry.record.number, before.record.number + 1 if before else 1
        if number < expected:
            found.append(f"record {number}: there are several of that number")
        elif number > expected:
            found.append(_missing(expected, number - 1))
        elif entry.record.previous != (before.sha256 if before else ""):
            what = f"record {number - 1} was altered, or record {number} was" if before else "it was altered"
            found.append(f"record {number}: does not follow from the one before: {what}")
        before = entry
    return found + _newest_problems(log)


def promoted_versions(log: AuditLog, champion: str) -> list[str]:
    """Versions that were promoted and not rolled back, oldest first; the last is the champion.

    Args:
        champion: the version that is champion now.
    """
    stack: list[str] = []
    for entry, moved in zip(log.entries, log.moved(champion), strict=True):
        if not moved:
            continue
        record = entry.record
        _go_to(stack, record.before)  # the alias may have been moved without a record
        if record.action == "rollback":
            if record.after not in stack and stack:
                stack.pop()  # the version that was rolled back
            _go_to(stack, record.after)
        else:
            stack.append(record.after)
    _go_to(stack, champion)
    return stack


def versions_to_keep(log: AuditLog, champion: str) -> list[str]:
    """The champion, and the `EARLIER_CHAMPIONS` before it, oldest first.

    The files of these versions are kept, so that a rollback finds them. `champion` is as of
    `promoted_versions`.
    """
    return promoted_versions(log, champion)[-1 - EARLIER_CHAMPIONS :]


def _go_to(stack: list[str], version: str) -> None:
    """Make a version the last of the stack."""
    if version in stack:
        while stack[-1] != version:
            stack.pop()
    elif version:
        stack.append(version)


def _runs(name: str) -> Sequence[Run]:
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        return []
    runs = mlflow.search_runs(
        [experiment.experiment_id],
        f"tags.`{STAGE}` = '{RELEASE}'",
        ViewType.ALL,
        output_format="list",
    )
    return [run for run in runs if RECORD_TAG in run.data.tags]


def _newest(name: str) -> tuple[int, str]:
    try:
        tags = mlflow.MlflowClient().get_registered_model(name).tags
    except MlflowException as error:
        if is_absent(error):
            return 0, ""
        raise
    try:
        table = parse_json(tags.get(NEWEST_TAG, '{"number": 0, "sha256": ""}'))
        return int(table["number"]), str(table["sha256"])
    except (ValueError, TypeError, KeyError):
        return -1, ""


def _newest_problems(log: AuditLog) -> list[str]:
    """What is wrong with the newest record: no record follows it, so the registry's tag vouches for it."""
    number, digest = log.newest
    last = log.entries[-1].record.number if log.entries else 0
    named = [entry for entry in log.entries if entry.record.number == number]
    if number > last:
        return [_missing(last + 1, number)]
    if number < last - 1:  # it is one behind if a process died between the two writes
        return [f"the registered model's tag {NEWEST_TAG} does not name record {last}, which is the newest"]
    if named and all(entry.sha256 != digest for entry in named):
        return [f"record {number}: was altered"]
    return []


def _missing(first: int, last: int) -> str:
    return f"record {first}: missing" if first == last else f"records {first} to {last}: missing"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
