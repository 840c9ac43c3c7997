"""Reads answers from the served log, and the events that followed from them.

The log is a folder as `protos/files/served_log.py` says, the events a file of Parquet as
`python -m twinspire.serving.events export` writes it. Both are joined by the id of the request.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from twinspire.protos.errors import InvalidInput, MissingStage
from twinspire.protos.files.served_log import SUFFIX

CLICK = "click"
LISTINGS = 5  # of the log's files, which the service may delete while they are read
Record = dict[str, Any]  # a row of the served log: column -> value


class Click(NamedTuple):
    """An event on an item of an answer. `recorded` is the moment when the service stored it."""

    recorded: Any
    request_id: str
    item_id: str


@dataclass(frozen=True)
class ServedFiles:
    """The files of a service.

    Args:
        log: folder of the served log.
        events: exported events, a file of Parquet; not read for answers alone.
        types: of the events that count as clicks.
    """

    log: Path
    events: Path = Path()
    types: tuple[str, ...] = (CLICK,)

    def explored(self, bundle: str) -> list[Record]:
        """The explored answers of a bundle's version, oldest first; errors as of `interleaved`."""
        columns = ("query", "propensities", "candidate_ids", "candidate_scores", "temperature")
        wanted = (pc.field("bundle") == bundle) & pc.field("propensities").is_valid()
        return self._rows(columns, wanted & pc.field("teams").is_null())

    def window(self, bundle: str, since: datetime, until: datetime, most: int) -> list[Record]:
        """Answers of a bundle's version in a span of time, `most` at random; errors as of `interleaved`."""
        time = pc.field("time")
        wanted = (pc.field("bundle") == bundle) & (time >= pa.scalar(since)) & (time < pa.scalar(until))
        columns = ("measures", "comparable", "scores", "weak")
        return self._rows(columns, wanted & pc.field("measures").is_valid(), most)

    def interleaved(self, champion: str, challenger: str) -> list[Record]:
        """The answers in which two versions were interleaved, oldest first.

        Raises:
            MissingStage: there is no served log in the folder.
            InvalidInput: a file cannot be read, or lacks a column.
        """
        wanted = (pc.field("bundle") == champion) & (pc.field("challenger") == challenger)
        return self._rows(("teams",), wanted & pc.field("teams").is_valid())

    def clicks(self, request_ids: Collection[str]) -> list[Click]:
        """The clicks on answers to some requests, in the order in which they were recorded.

        Raises:
            InvalidInput: the file cannot be read, or lacks a column.
        """
        wanted = _of(request_ids) & pc.field("type").isin(list(self.types))
        columns = list(Click._fields)
        rows = _read([self.events], columns, wanted, "events").to_pydict()
        return sorted(Click(*row) for row in zip(*(rows[name] for name in columns), strict=True))

    def last_event(self) -> datetime | None:
        """When the service stored the last event of any type; None without events. Errors as of `clicks`."""
        recorded = _read([self.events], ["recorded"], None, "events")["recorded"]
        last: datetime | None = pc.max(recorded).cast(pa.timestamp("us", "UTC"), safe=False).as_py()
        return last

    def _rows(self, columns: Sequence[str], wanted: Any, most: int | None = None) -> list[Record]:
        """The wanted answers, `most` at random, if their ids are unique in the log: events name no other."""
        names = ["request_id", "time", "user", "item_ids", *columns]
        for left in reversed(range(LISTINGS)):
            files = sorted(self.log.glob(f"*/*{SUFFIX}"))
            if not files:
                where = f"{self.log}: holds no served log"
                raise MissingStage(f"{where}; `serve --served-log FOLDER` writes one")
            try:
                table = _read(files, names, wanted, "served_log")
                if most is not None and len(table) > most:
                    table = table.take(np.random.default_rng(0).choice(len(table), most, replace=False))
                rows = table.sort_by("time").to_pylist()
                ids = _read(files, ["request_id"], _of({row["request_id"] for row in rows}), "served_log")
                break
            except InvalidInput:
                if not left or all(each.exists() for each in files):
                    raise
        count = Counter(ids["request_id"].to_pylist())
        return [row for row in rows if count[row["request_id"]] == 1]


def _of(request_ids: Collection[str]) -> Any:
    return pc.field("request_id").isin(pa.array(request_ids, pa.string()))


def _read(files: Sequence[Path], columns: Sequence[str], wanted: Any, name: str) -> pa.Table:
    try:
        schema = pq.read_schema(files[-1])  # older files may lack its last columns, which are null then
        return ds.dataset([str(each) for each in files], schema=schema).to_table(columns, filter=wanted)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(name, f"expected Parquet with {', '.join(columns)}: {error}") from None


def user_numbers(records: Sequence[Record]) -> npt.NDArray[np.int64]:
    """A number for each record's user, (R,); a record without a user has one of its own."""
    names = [each["user"] or f"\0{each['request_id']}" for each in records]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
