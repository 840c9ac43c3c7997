"""Records of releases: what `export` writes into MLflow for each promotion, refusal and rollback.

Each record is the JSON in the tag `RECORD_TAG` of an MLflow run, whose tag `STAGE` is `RELEASE`.
"""

from dataclasses import dataclass
from typing import Any, Literal

from twinspire.protos.documents import parse_json
from twinspire.protos.toml_config import parse

RELEASE = "release"  # value of the tag `STAGE` of a record's run
RECORD_TAG = "twinspire.move"  # of a run
CHAMPION = "champion"  # the alias that records are about
RECORD_LENGTH = 8000  # characters; MLflow cuts a longer tag of a run without an error
REASON_LENGTH = 1000  # characters of a reason
WARNINGS_KEPT, WARNING_LENGTH = 8, 300  # warnings of a record, and characters of each
REMOVED = ("previous", "broke")  # fields of records by earlier versions

Action = Literal["promote", "refuse", "force", "rollback"]
MOVING_ACTIONS = ("promote", "force", "rollback")


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
