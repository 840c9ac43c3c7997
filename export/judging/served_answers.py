"""Reads answers from the served log, and the events that followed from them.

The log is a folder as `protos/files/served_log.py` says, the events a file of Parquet as
`python -m twinspire.serving.events export` writes it. Both are joined by the id of the request.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from twinspire.protos.errors import InvalidInput, MissingStage
from twinspire.protos.files.served_log import SUFFIX

CLICK = "click"
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
        events: exported events, a file of Parquet.
        types: of the events that count as clicks.
    """

    log: Path
    events: Path
    types: tuple[str, ...] = (CLICK,)

    def explored(self, bundle: str) -> list[Record]:
        """The explored answers of a bundle's version, oldest first; errors as of `interleaved`."""
        columns = ("query", "propensities", "candidate_ids", "candidate_scores", "temperature")
        wanted = (pc.field("bundle") == bundle) & pc.field("propensities").is_valid()
        return self._rows(columns, wanted & pc.field("teams").is_null())

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
        wanted = pc.field("request_id").isin(pa.array(request_ids, pa.string()))
        wanted &= pc.field("type").isin(list(self.types))
        columns = list(Click._fields)
        rows = _read([self.events], columns, wanted, "events").to_pydict()
        return sorted(Click(*row) for row in zip(*(rows[name] for name in columns), strict=True))

    def _rows(self, columns: Sequence[str], wanted: Any) -> list[Record]:
        files = sorted(self.log.glob(f"*/*{SUFFIX}"))
        if not files:
            where = f"{self.log}: holds no served log"
            raise MissingStage(f"{where}; `serve --served-log FOLDER` writes one")
        always = ["request_id", "time", "user", "item_ids"]
        found = _read(files, [*always, *columns], wanted, "served_log").sort_by("time")
        return list(found.to_pylist())


def _read(files: Sequence[Path], columns: Sequence[str], wanted: Any, name: str) -> pa.Table:
    try:
        return ds.dataset([str(each) for each in files]).to_table(columns, filter=wanted)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(name, f"expected Parquet with {', '.join(columns)}: {error}") from None


def user_numbers(records: Sequence[Record]) -> npt.NDArray[np.int64]:
    """A number for each record's user, (R,); a record without a user has one of its own."""
    names = [each["user"] or f"\0{each['request_id']}" for each in records]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
