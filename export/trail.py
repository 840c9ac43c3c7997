"""The trail of a champion: who moved it, when, from what to what, on which evidence, and why.

Each promotion, refusal, forced promotion and rollback is one MLflow run in the model's experiment, with its
report as artefacts and its record in the tag `twinspire.move`. Records are numbered, and each holds the
sha256 of the one before. The registered model's tag `twinspire.trail` holds the number and the sha256 of
the newest. So a record that was altered, taken out or put in shows.

A record is written before the alias moves, and the run ends after. Of a run that has not ended, the next
record's `before`, or the alias itself, tells whether the alias moved.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from protos.config import parse
from protos.documents import parse_json
from protos.errors import InvalidInput
from protos.mlflow_names import STAGE
from train.tracking import is_absent

RELEASE = "release"
MOVE = "twinspire.move"
HEAD = "twinspire.trail"
REASON_LENGTH = 1000  # characters
RECORD_LENGTH = 8000  # characters; MLflow cuts a longer tag of a run without an error

Action = Literal["promote", "refuse", "force", "rollback"]
MOVES = ("promote", "force", "rollback")


@dataclass(frozen=True)
class Record:
    """One link of the chain.

    Args:
        number: 1, 2, and so on.
        at: UTC time, ISO 8601.
        actor: user and host.
        action: `refuse` leaves the champion as it is, the others move it.
        before: version that was champion, empty if none was.
        after: version that becomes champion, or would have.
        gates: name, figure, bound and `holds` of each gate; none where nothing was compared.
        reason: why, in the actor's words; of a refusal without gates, what had come between.
        previous: sha256 of the record before; empty in the first.
        broke: release locks that were broken for this record: who held each, since when, and why.
    """

    number: int
    at: str
    actor: str
    action: Action
    before: str
    after: str
    gates: tuple[dict[str, Any], ...] = ()
    reason: str = ""
    previous: str = ""
    broke: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A record and the run that holds it.

    Args:
        text: the record as it was written.
        status: of the run, `FINISHED` once the alias had moved.
        deleted: whether somebody deleted the run; MLflow keeps it for a while.
    """

    record: Record
    text: str
    run_id: str
    status: str
    deleted: bool

    @property
    def sha256(self) -> str:
        """What the next record holds as `previous`."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Trail:
    """All that is known of a champion's moves, oldest first.

    Args:
        unreadable: runs whose record is not one.
        head: number and sha256 of the newest record, as the registry has it; 0 if it has none.
    """

    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...]
    head: tuple[int, str]

    def moved(self, champion: str) -> list[bool]:
        """Of each entry, whether the alias moved; `champion` is where it is now."""
        records = [entry.record for entry in self.entries]
        then = [*(record.before for record in records[1:]), champion]
        return [
            entry.record.action in MOVES and (entry.status == "FINISHED" or after == entry.record.after)
            for entry, after in zip(self.entries, then, strict=False)  # without entries there is one more
        ]


def read(name: str) -> Trail:
    """The trail of a registered model; empty if it has none."""
    runs = _runs(name)
    entries, unreadable = [], []
    for run in runs:
        text = run.data.tags[MOVE]
        try:
            record: Record = parse(parse_json(text), Record)
        except (ValueError, TypeError):
            unreadable.append(run.info.run_id)
            continue
        deleted = run.info.lifecycle_stage != "active"
        entries.append(Entry(record, text, run.info.run_id, run.info.status, deleted))
    entries.sort(key=lambda entry: (entry.record.number, entry.record.at))
    return Trail(tuple(entries), tuple(unreadable), _head(name))


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
) -> Record:
    """Write the next record into a run. Only who holds the lock may.

    Args:
        gates: with `name`, `figure`, `bound` and `holds`; a figure that is no number becomes None.
        broke: what is said of the release locks that were broken for it.

    Raises:
        InvalidInput: the record is too long for a tag of a run; nothing was written.
    """
    known = read(name).entries
    record = Record(
        number=known[-1].record.number + 1 if known else 1,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        actor=actor,
        action=action,
        before=before,
        after=after,
        gates=tuple({key: _plain(value) for key, value in gate.items()} for gate in gates),
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
    client.set_tag(run_id, MOVE, text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    client.set_registered_model_tag(name, HEAD, json.dumps({"number": record.number, "sha256": digest}))
    return record


def problems(trail: Trail) -> list[str]:
    """What is wrong with a trail, in sentences; none if every record is the one that was written."""
    found = [f"run {run_id}: its record cannot be read" for run_id in trail.unreadable]
    found += [f"record {e.record.number}: its run {e.run_id} was deleted" for e in trail.entries if e.deleted]
    before: Entry | None = None
    for entry in trail.entries:
        number, expected = entry.record.number, before.record.number + 1 if before else 1
        if number < expected:
            found.append(f"record {number}: there are several of that number")
        elif number > expected:
            found.append(f"record {expected}: missing" if number == expected + 1 else _gap(expected, number))
        elif entry.record.previous != (before.sha256 if before else ""):
            what = f"record {number - 1} was altered, or record {number} was" if before else "it was altered"
            found.append(f"record {number}: does not follow from the one before: {what}")
        before = entry
    return found + _against_head(trail)


def standing(trail: Trail, champion: str) -> list[str]:
    """Versions that were made champion and not taken back, oldest first; the last is the champion."""
    stack: list[str] = []
    for entry, moved in zip(trail.entries, trail.moved(champion), strict=True):
        if not moved:
            continue
        record = entry.record
        _go_to(stack, record.before)  # where somebody moved the alias beside the trail
        if record.action == "rollback":
            if record.after not in stack and stack:
                stack.pop()  # what was rolled back from stands no more
            _go_to(stack, record.after)
        else:
            stack.append(record.after)
    _go_to(stack, champion)
    return stack


def _go_to(stack: list[str], version: str) -> None:
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
    return [run for run in runs if MOVE in run.data.tags]


def _head(name: str) -> tuple[int, str]:
    try:
        tags = mlflow.MlflowClient().get_registered_model(name).tags
    except MlflowException as error:
        if is_absent(error):
            return 0, ""
        raise
    try:
        table = parse_json(tags.get(HEAD, '{"number": 0, "sha256": ""}'))
        return int(table["number"]), str(table["sha256"])
    except (ValueError, TypeError, KeyError):
        return -1, ""


def _against_head(trail: Trail) -> list[str]:
    """The newest record is followed by none, so the registry's note of it stands in for the next."""
    number, digest = trail.head
    last = trail.entries[-1].record.number if trail.entries else 0
    noted = [entry for entry in trail.entries if entry.record.number == number]
    if number > last:
        return [_gap(last + 1, number + 1) if number > last + 1 else f"record {number}: missing"]
    if number < last - 1:  # one behind it is where a process died between the two writes
        return [f"the registered model's tag {HEAD} does not name record {last}, which is the newest"]
    if noted and all(entry.sha256 != digest for entry in noted):
        return [f"record {number}: was altered"]
    return []


def _gap(first: int, then: int) -> str:
    return f"records {first} to {then - 1}: missing"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
