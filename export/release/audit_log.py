"""The audit log of a model: every promotion, refusal, forced promotion and rollback of its champion.

Each record is one MLflow run in the model's experiment, with the tag `STAGE`. The run has the record as JSON
in its tag `RECORD_TAG`, and the report of the gates as artefacts. Records are numbered, so one that is
missing is noticed.

`commit` writes the record, checks that the champion is still the version that the release was decided
against, moves the alias, and ends the run. If a process died in between, the `before` of the next record, or
the alias itself, shows whether the alias was moved.

The registry lets the last writer of an alias win. Processes with the same cache folder commit one at a time:
each locks a file there, and the kernel unlocks it when a process ends. On two hosts, both may move the alias
if their checks fall within the same moment. Then the last move wins, and both records are kept, maybe with
one number. `history` shows that the alias did not move as the earlier of them says.
"""

import contextlib
import getpass
import json
import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import mlflow
from mlflow.entities import Run, ViewType

from twinspire.export.release.registry import CHAMPION, AliasState, expect_collection, retire_challenger
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import InvalidInput, TwinspireError, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.mlflow_keys import REASON_LENGTH, STAGE
from twinspire.protos.toml_config import parse
from twinspire.train.fingerprint import fingerprint
from twinspire.train.paths import CACHE
from twinspire.train.training.tracking import environment, experiment_id

EARLIER_CHAMPIONS = 2  # whose files are kept for a rollback
LOCKS = CACHE / "locks"
RELEASE = "release"  # value of the tag `STAGE` of a record's run
RECORD_TAG = "twinspire.move"  # of a run
RECORD_LENGTH = 8000  # characters; MLflow cuts a longer tag of a run without an error
WARNINGS_KEPT, WARNING_LENGTH = 8, 300  # warnings of a record, and characters of each
REMOVED = ("previous", "broke")  # fields of records by earlier versions

Action = Literal["promote", "refuse", "force", "rollback"]
MOVING_ACTIONS = ("promote", "force", "rollback")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleaseRecord:
    """One record of the audit log.

    Args:
        number: 1, 2, and so on.
        at: UTC time, ISO 8601.
        actor: user and host.
        action: `refuse` leaves the champion as it is; the others move it.
        before: version that was champion; empty if there was none.
        after: version that becomes champion, or would have.
        gates: name, figure, bound and `holds` of each gate, its title, figure and bound for people, its
            warning, and what later promotions read (`change`); empty if nothing was compared.
        reason: the actor's reason; of a refusal without gates, what happened in between.
        warnings: of the run that trained version `after`, one sentence each; those of a gate are with it.
    """

    number: int
    at: str
    actor: str
    action: Action
    before: str
    after: str
    gates: tuple[dict[str, Any], ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A record and the run that holds it.

    Args:
        status: of the run; `FINISHED` once the release has ended.
        deleted: the run was deleted; MLflow keeps it for a while.
    """

    record: ReleaseRecord
    run_id: str
    status: str
    deleted: bool

    @property
    def is_complete(self) -> bool:
        """Whether the release has ended; if not, its process has died, failed, or is at work now."""
        return self.status == "FINISHED"


@dataclass(frozen=True)
class AuditLog:
    """All records of a model, oldest first.

    Args:
        unreadable: ids of runs whose record cannot be parsed.
    """

    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]

    def moved(self, champion: str) -> list[bool]:
        """For each entry, whether it moved the alias.

        Args:
            champion: the version that is champion now.
        """
        next_champions = [*(entry.record.before for entry in self.entries[1:]), champion]
        return [
            entry.record.action in MOVING_ACTIONS and (entry.is_complete or following == entry.record.after)
            for entry, following in zip(self.entries, next_champions, strict=False)  # one more if no entry
        ]


@contextmanager
def release_run(name: str, title: str) -> Iterator[str]:
    """A new run for one record; gives its id. `commit` ends the run. If the block raises before, it fails.

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
            if client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, "FAILED")
        raise


def commit(
    name: str,
    run_id: str,
    action: Action,
    before: str,
    after: str,
    gates: Iterable[Mapping[str, Any]] = (),
    reason: str = "",
    warnings: Sequence[str] = (),
) -> ReleaseRecord:
    """Write the record, then move the alias if the action does so, then end the run.

    The version that becomes champion loses the alias `challenger`. If its index is in a vector database, its
    collection is looked for before the alias moves, and again after: until then, `prune` may drop it.

    Args:
        name: of the registered model.
        run_id: of a `release_run`.
        before: the champion that the release was decided against; empty if there was none.
        gates: with `name`, `figure`, `bound` and `holds`; a figure that is not finite becomes None.
        warnings: the first `WARNINGS_KEPT` are kept, `WARNING_LENGTH` characters of each.

    Raises:
        ConfigError, MissingStage: as of `expect_collection`. A note says so if the alias was moved.
        InvalidInput: the record is too long; the alias was not moved.
        Unavailable: another version is champion by now. The record becomes a refusal that says so. Or the
            server does not answer.
    """
    moves = action in MOVING_ACTIONS
    if moves:
        expect_collection(name, after)
    client = mlflow.MlflowClient()
    with _one_at_a_time(name):
        record = append(name, run_id, action, before, after, gates, reason, warnings)
        champion = AliasState.of(name).champion
        if champion != before:
            now, instead = champion or "none", before or "none"
            overtaken = f"version {now} was made {CHAMPION} meanwhile, in place of {instead}"
            record = _write(run_id, replace(record, action="refuse", before=champion, reason=overtaken))
        elif moves:
            client.set_registered_model_alias(name, CHAMPION, after)
            retire_challenger(name, after)
        client.set_terminated(run_id, "FINISHED")
    if champion != before:
        raise Unavailable(f"{name}: version {after} does not become champion: {record.reason}; try again")
    if moves:
        try:
            expect_collection(name, after)
        except TwinspireError as error:
            error.add_note(f"version {after} has become {CHAMPION}")
            raise
    return record


def read(name: str) -> AuditLog:
    """The audit log of a registered model; empty if it has none."""
    entries, unreadable = [], []
    for run in _runs(name):
        try:
            record = parse_record(run.data.tags[RECORD_TAG])
        except (ValueError, TypeError):
            unreadable.append(run.info.run_id)
            continue
        deleted = run.info.lifecycle_stage != "active"
        entries.append(Entry(record, run.info.run_id, run.info.status, deleted))
    entries.sort(key=lambda entry: (entry.record.number, entry.record.at))
    return AuditLog(tuple(entries), tuple(unreadable))


def append(
    name: str,
    run_id: str,
    action: Action,
    before: str,
    after: str,
    gates: Iterable[Mapping[str, Any]] = (),
    reason: str = "",
    warnings: Sequence[str] = (),
) -> ReleaseRecord:
    """Write the next record into a run; arguments and errors are as of `commit`."""
    known = read(name).entries
    record = ReleaseRecord(
        number=known[-1].record.number + 1 if known else 1,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        actor=actor(),
        action=action,
        before=before,
        after=after,
        gates=tuple({key: _finite(value) for key, value in gate.items()} for gate in gates),
        reason=reason[:REASON_LENGTH],
        warnings=tuple(each[:WARNING_LENGTH] for each in warnings[:WARNINGS_KEPT]),
    )
    return _write(run_id, record)


def actor() -> str:
    """User and host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def problems(log: AuditLog) -> list[str]:
    """What is wrong with an audit log, one sentence each; empty if no record is known to be missing."""
    found = [f"run {run_id}: its record cannot be read" for run_id in log.unreadable]
    found += [f"record {e.record.number}: its run {e.run_id} was deleted" for e in log.entries if e.deleted]
    expected = 1
    for number in (entry.record.number for entry in log.entries):
        if number == expected + 1:
            found.append(f"record {expected}: missing")
        elif number > expected:
            found.append(f"records {expected} to {number - 1}: missing")
        expected = number + 1
    return found


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


def parse_record(text: str) -> ReleaseRecord:
    """The record in a tag.

    Raises:
        ValueError, TypeError: it is none.
    """
    table = parse_json(text)
    if isinstance(table, dict):
        table = {key: value for key, value in table.items() if key not in REMOVED}
    record: ReleaseRecord = parse(table, ReleaseRecord)
    return record


def _write(run_id: str, record: ReleaseRecord) -> ReleaseRecord:
    """Write a record into its run; returns it."""
    text = json.dumps(asdict(record), ensure_ascii=False, sort_keys=True, allow_nan=False)
    if len(text) > RECORD_LENGTH:
        raise InvalidInput(
            "record of the release",
            f"expected at most {RECORD_LENGTH:,} characters of JSON, got {len(text):,}; shorten the reason",
        )
    mlflow.MlflowClient().set_tag(run_id, RECORD_TAG, text)
    return record


@contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Keep the processes that use this cache folder and registry apart; without the file, only log that."""
    path = LOCKS / f"release-{fingerprint(mlflow.get_tracking_uri(), name)[:16]}.lock"
    with contextlib.ExitStack() as stack:
        try:
            waits = partial(logger.warning, "%s: waits for another release on this host (%s)", name, path)
            stack.enter_context(exclusive_lock(path, on_wait=waits))
        except OSError as error:  # another user's file, for example; the check of the champion remains
            logger.warning("%s: another release on this host is not waited for: %s", name, error)
        yield


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
