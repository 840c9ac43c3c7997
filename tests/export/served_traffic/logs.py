"""Served logs and events as files, as a service writes them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.served import EVENTS, SCHEMA
from twinspire.export.served_traffic.served_answers import ServedFiles
from twinspire.protos.files.served_log import COLUMNS, HOUR_FORMAT, SUFFIX

BEGUN = datetime(2026, 12, 1, 20, tzinfo=UTC)


def write_log(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Two files of an hour; a column that a row lacks is null."""
    hour = folder / BEGUN.strftime(HOUR_FORMAT)
    hour.mkdir(parents=True)
    defaults = {"bundle": "one", "k": 10, "scores": []}
    whole = [
        {**dict.fromkeys(COLUMNS), **defaults, "time": BEGUN + timedelta(seconds=n), **row}
        for n, row in enumerate(rows)
    ]
    for part in (0, 1):
        table = pa.Table.from_pylist(whole[part::2], schema=SCHEMA)
        pq.write_table(table, hour / f"{part}{SUFFIX}")


def write_events(
    path: Path, clicks: Sequence[tuple[str, str]], kind: str = "click", later: timedelta = timedelta(days=1)
) -> None:
    """A file of events, each a request id and an item id, recorded one a second, `later` than the answers."""
    rows = [
        {
            "user_id": "u",
            "time": float(n),
            "recorded": BEGUN + later + timedelta(seconds=n),
            "item_id": item,
            "type": kind,
            "request_id": request,
        }
        for n, (request, item) in enumerate(clicks)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), path)


def interleaved(
    folder: Path, teams: Sequence[int], champion: str = "one", challenger: str = "two"
) -> ServedFiles:
    """Files in which each of some users has clicked once, on an item of a team."""
    items = {0: "of-champion", 1: "of-challenger", None: "of-both"}
    row = {"bundle": champion, "challenger": challenger, "item_ids": [*items.values()], "teams": [*items]}
    write_log(folder / "log", [{**row, "request_id": f"r{n}", "user": f"u{n}"} for n in range(len(teams))])
    write_events(folder / "events.parquet", [(f"r{n}", items[team]) for n, team in enumerate(teams)])
    return ServedFiles(folder / "log", folder / "events.parquet")
