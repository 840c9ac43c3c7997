"""The audit log of a model as one document.

python -m export history --config train/configs/pydocs.toml
"""

from dataclasses import asdict
from typing import Any

from export.release import audit_log, lock
from export.release.registry import AliasState, registry_errors
from protos.release_records import outcomes


def history(name: str) -> dict[str, Any]:
    """All records, oldest first, with what is wrong with them and moves of the alias that have no record.

    Raises:
        Unavailable: the registry does not answer.
    """
    with registry_errors():
        known = audit_log.read(name)
        champion = AliasState.of(name).champion
        release_runs = bool(lock.holder(name))
    ended = outcomes([entry.status for entry in known.entries], release_runs)
    records = [
        asdict(entry.record) | {"run_id": entry.run_id, "outcome": outcome, "moved": moved}
        for entry, outcome, moved in zip(known.entries, ended, known.moved(champion), strict=True)
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
