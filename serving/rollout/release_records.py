"""Reads the newest records of a model's releases from MLflow, and does not trust them.

Anyone who may write to the registry may have written the texts. So each text becomes one line without control
characters, cut to a bound; what cannot be parsed as a record is left out.
"""

import math
from collections.abc import Mapping
from typing import Any

from protos.mlflow_keys import ABSENT, STAGE
from protos.release_records import (
    CHAMPION,
    LOCK_STALE_S,
    LOCK_SUFFIX,
    REASON_LENGTH,
    RECORD_LENGTH,
    RECORD_TAG,
    RELEASE,
    RUNNING,
    ReleaseRecord,
    moved_alias,
    outcomes,
    parse_record,
)

RECORDS = 20  # the newest, which are shown
SEARCHED = 200  # the newest, among which the promotion of a version is looked for
PROMOTIONS = ("promote", "force")

# Bounds that no record of this program exceeds: of texts in characters, of gates, and of a record's number.
ID, NAME, TEXT = 64, 128, 300
GATES = 32
HIGHEST = 2**32 - 1


def read_releases(client: Any, name: str, version: str, now: float) -> dict[str, Any]:
    """The newest records of a model, newest first, and the promotion of one version.

    Args:
        client: of MLflow.
        name: of the registered model, and of its experiment.
        version: that is served.
        now: Unix time.

    Returns:
        `records`, and `promotion`, which is None where none was found; both ready for JSON.
    """
    known = _read_records(client, name)
    records, statuses = [record for record, _ in known], [run.info.status for _, run in known]
    moves = moved_alias(records, statuses, _champion(client, name)) if known else []
    is_locked = bool(statuses) and statuses[-1] == RUNNING and _is_locked(client, name, now)
    documents = [
        document(record, run.info.run_id, outcome, moved)
        for (record, run), outcome, moved in zip(known, outcomes(statuses, is_locked), moves, strict=True)
    ][::-1]
    promoted = [each for each in documents if each["moved"] and each["action"] in PROMOTIONS]
    promotion = next((each for each in promoted if each["after"] == version), None)
    return {"promotion": promotion, "records": documents[:RECORDS]}


def document(record: ReleaseRecord, run_id: str, outcome: str, moved: bool) -> dict[str, Any]:
    """A record within its bounds: the fields of `ReleaseRecord`."""
    return {
        "number": record.number,
        "at": line(record.at, ID),
        "actor": line(record.actor, NAME),
        "action": record.action,
        "before": line(record.before, ID),
        "after": line(record.after, ID),
        "gates": [_gate(each) for each in record.gates[:GATES]],
        "reason": line(record.reason, REASON_LENGTH),
        "outcome": outcome,
        "moved": moved,
        "run_id": line(run_id, ID),
    }


def line(text: str, most: int) -> str:
    """A text as one line without control characters, cut to `most` characters."""
    printable = "".join(each if each.isprintable() else " " for each in text[: 4 * most])
    words = " ".join(printable.split())
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _read_records(client: Any, name: str) -> list[tuple[ReleaseRecord, Any]]:
    """The newest records that can be parsed, with their runs, oldest first."""
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return []
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{STAGE}` = '{RELEASE}'",
        ViewType.ALL,
        SEARCHED,
        ["attributes.start_time DESC"],
    )
    found = []
    for run in runs:
        text = run.data.tags.get(RECORD_TAG, "")
        if not text or len(text) > RECORD_LENGTH:
            continue
        try:
            record = parse_record(text)
        except (ValueError, TypeError):
            continue
        if 0 <= record.number <= HIGHEST:
            found.append((record, run))
    return sorted(found, key=lambda each: (each[0].number, each[0].at))


def _champion(client: Any, name: str) -> str:
    """The version that is champion in the registry; empty if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, CHAMPION).version)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return ""
        raise


def _is_locked(client: Any, name: str, now: float) -> bool:
    """Whether a process holds the release lock, or was killed under it less than `LOCK_STALE_S` ago."""
    from mlflow.exceptions import MlflowException

    try:
        lock = client.get_registered_model(name + LOCK_SUFFIX)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return False
        raise
    return (
        abs(now - float(lock.creation_timestamp) / 1000) < LOCK_STALE_S
    )  # the lock's time is of another clock


def _gate(gate: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `GateResult`."""
    return {
        "name": _text(gate.get("name"), ID),
        "title": _text(gate.get("title"), NAME),
        "figure": _number(gate.get("figure")),
        "bound": _number(gate.get("bound")),
        "shown_figure": _text(gate.get("shown_figure"), ID),
        "shown_bound": _text(gate.get("shown_bound"), ID),
        "holds": gate.get("holds") is True,
        "warning": _text(gate.get("warning"), TEXT),
    }


def _text(value: Any, most: int) -> str:
    return line(value, most) if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    """A finite number as a float; None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of JSON has no bound
        return None
    return number if math.isfinite(number) else None
