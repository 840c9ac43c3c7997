"""Records of releases: what `export` writes into MLflow for each promotion, refusal and rollback.

Each record is the JSON in the tag `RECORD_TAG` of an MLflow run, whose tag `STAGE` is `RELEASE`. See
`export/release/audit_log.py` for how records are chained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from protos.documents import parse_json
from protos.toml_config import parse

RELEASE = "release"  # value of the tag `STAGE` of a record's run
RECORD_TAG = "twinspire.move"  # of a run
LOCK_SUFFIX = ".release-lock"  # of a model's name: the registered model that is its release lock
CHAMPION = "champion"  # the alias that records are about
RECORD_LENGTH = 8000  # characters; MLflow cuts a longer tag of a run without an error
REASON_LENGTH = 1000  # characters of a reason
LOCK_STALE_S = 300.0  # age of a release lock from which on another process may break it
FINISHED, RUNNING = "FINISHED", "RUNNING"  # statuses of a run

Action = Literal["promote", "refuse", "force", "rollback"]
MOVING_ACTIONS = ("promote", "force", "rollback")


@dataclass(frozen=True)
class ReleaseRecord:
    """One record of the chain.

    Args:
        number: 1, 2, and so on.
        at: UTC time, ISO 8601.
        actor: user and host.
        action: `refuse` leaves the champion as it is; the others move it.
        before: version that was champion; empty if there was none.
        after: version that becomes champion, or would have.
        gates: name, figure, bound and `holds` of each gate, its title, figure and bound for people, and what
            later promotions read (`change`); empty if nothing was compared.
        reason: the actor's reason; of a refusal without gates, what happened in between.
        previous: sha256 of the record before; empty in the first.
        broke: release locks that were broken for this record: the holder of each, since when, and why.
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


def parse_record(text: str) -> ReleaseRecord:
    """The record in a tag.

    Raises:
        ValueError, TypeError: it is none.
    """
    record: ReleaseRecord = parse(parse_json(text), ReleaseRecord)
    return record


def moved_alias(records: Sequence[ReleaseRecord], statuses: Sequence[str], champion: str) -> list[bool]:
    """For each record, whether it moved the alias.

    Args:
        records: oldest first.
        statuses: of their runs.
        champion: the version that is champion now.
    """
    next_champions = [*(record.before for record in records[1:]), champion]
    return [
        record.action in MOVING_ACTIONS and (status == FINISHED or following == record.after)
        for record, status, following in zip(
            records, statuses, next_champions, strict=False
        )  # one more if none
    ]


def outcomes(statuses: Sequence[str], is_locked: bool) -> list[str]:
    """For each record `done`, `under way` or `interrupted`.

    Args:
        statuses: of the records' runs, oldest first.
        is_locked: whether a process holds the release lock; it writes the newest record.
    """
    newest = len(statuses) - 1
    return [
        "done"
        if status == FINISHED
        else "under way"
        if is_locked and status == RUNNING and n == newest
        else "interrupted"
        for n, status in enumerate(statuses)
    ]
