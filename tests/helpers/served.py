"""Served logs and exports of events, as the service writes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twinspire.protos.files import served_log

START = 1_796_083_200.0  # 2026-12-01


def _type(kind: str) -> pa.DataType:
    if kind.startswith("list<"):
        return pa.list_(_type(kind[5:-1]))
    return pa.timestamp("us", "UTC") if kind.startswith("timestamp") else pa.type_for_alias(kind)


SCHEMA = pa.schema([(name, _type(kind)) for name, kind in served_log.COLUMNS.items()])
EVENTS = pa.schema(
    {
        "user_id": pa.string(),
        "time": pa.float64(),
        "recorded": pa.timestamp("ns", "UTC"),
        "item_id": pa.string(),
        "type": pa.string(),
        "value": pa.float64(),
        "request_id": pa.string(),
        "position": pa.int64(),
    }
)


@dataclass(frozen=True)
class Answer:
    """A logged answer; `others` are further columns of the contract."""

    request_id: str
    time: float
    items: Sequence[str]
    query: Mapping[str, Any] | None = None
    user: str | None = None
    scores: Sequence[float] | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        scores = self.scores or [1 - n / 10 for n in range(len(self.items))]
        found = dict.fromkeys(served_log.COLUMNS) | {
            "request_id": self.request_id,
            "time": datetime.fromtimestamp(self.time, UTC),
            "bundle": "b1",
            "user": self.user,
            "query": json.dumps(self.query or {}),
            "k": len(self.items),
            "item_ids": list(self.items),
            "scores": scores,
        }
        return found | dict(self.others)


def write_log(folder: Path, answers: Sequence[Answer], worker: int = 0) -> Path:
    """One file of a served log; returns its path."""
    first = min(answer.time for answer in answers)
    hour = folder / datetime.fromtimestamp(first, UTC).strftime(served_log.HOUR_FORMAT)
    hour.mkdir(parents=True, exist_ok=True)
    path = hour / f"{int(first * 1e9)}-{worker}{served_log.SUFFIX}"
    pq.write_table(pa.Table.from_pylist([answer.row() for answer in answers], SCHEMA), path)
    return path


def event(
    user: str,
    item: str,
    time: float,
    request_id: str = "",
    kind: str = "click",
    value: float | None = None,
    recorded: float | None = None,
) -> dict[str, Any]:
    """A recorded event; it is recorded at its time unless said otherwise."""
    when = datetime.fromtimestamp(time if recorded is None else recorded, UTC)
    given = (user, time, when, item, kind, value, request_id, None)
    return dict(zip(EVENTS.names, given, strict=True))


def write_events(path: Path, events: Sequence[dict[str, Any]]) -> Path:
    """What `python -m twinspire.serving.events export` writes."""
    pq.write_table(pa.Table.from_pylist(list(events), EVENTS), path)
    return path
