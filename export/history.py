"""The trail of a champion as one document: what happened, what was cut short, what is not as it was written.

python -m export history --config train/configs/pydocs.toml
"""

from dataclasses import asdict
from typing import Any

from export import lock, trail
from export.moves import Standing
from export.registry import answering


def history(name: str) -> dict[str, Any]:
    """The trail, oldest first, as one document; see `trail.problems` for what can be wrong with it.

    Raises:
        Unavailable: the registry does not answer.
    """
    with answering():
        known = trail.read(name)
        champion = Standing.of(name).champion
        under_way = bool(lock.holder(name))
    records = []
    for n, (entry, moved) in enumerate(zip(known.entries, known.moved(champion), strict=True), 1):
        ended = entry.status == "FINISHED"
        waits = under_way and entry.status == "RUNNING" and n == len(known.entries)
        outcome = "done" if ended else "under way" if waits else "interrupted"
        records.append(asdict(entry.record) | {"run_id": entry.run_id, "outcome": outcome, "moved": moved})
    problems = trail.problems(known)
    return {
        "name": name,
        "champion": champion,
        "records": records,
        "intact": not problems,
        "problems": problems,
        "beside": _moved_beside(records, champion),
    }


def _moved_beside(records: list[dict[str, Any]], champion: str) -> list[str]:
    """Where the alias was not what the record before had left: somebody moved it without a record."""
    found, stands = [], records[0]["before"] if records else champion
    for record in records:
        if record["before"] != stands:
            found.append(f"before record {record['number']}: from {stands or 'none'} to {record['before']}")
        stands = record["after"] if record["moved"] else record["before"]
    if stands != champion:
        found.append(f"since the last record: from {stands or 'none'} to {champion or 'none'}")
    return found
