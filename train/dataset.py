"""From a data section of a TOML to two tables on the disk, made once.

    dataset = prepare(read_experiment(path), path.parent)
    dataset.items, dataset.part("train"), dataset.split_hash

The folder `<cache>/<name>-<fingerprint>` holds `items.parquet`, `pairs.parquet` and `dataset.json`, and
of events of users `history.parquet`: what each user dealt with, in order, one user after another. A pair's
history is `history[begin:end]` of it.

The fingerprint covers the configuration, the code and the libraries of this module, and the identity of what
is read; while it stays the same, the folder is loaded and nothing is read again.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console

from protos import drafts
from protos.bundle import sync
from protos.documents import parse_json
from protos.errors import DataError
from protos.features import HistoryFeature, TextFeature
from train import places, sequence_split, split
from train.config import DebianData, EventsData, Experiment, MovielensData, PydocsData
from train.fingerprint import program
from train.sources import debian, events, files, movielens, pydocs
from train.sources.feature_columns import names_of
from train.sources.tables import Tables, sample_groups

CACHE = places.CACHE / "data"
ITEMS = "items.parquet"
PAIRS = "pairs.parquet"
HISTORY = "history.parquet"
REPORT = "dataset.json"


@dataclass(frozen=True)
class Dataset:
    """Items and (query, item) pairs, split.

    Args:
        folder: where they lie.
        items: `item_id` first, then the columns of features and display fields.
        pairs: columns of the query's features, `item_row`, `weight`, `group`, maybe `time`, `part`; of
            events also `label`, `position`, `user_start`, `begin`, `end`, maybe `session`.
        report: what was read, what was dropped and why, and what identifies all of it.
        history: of events, int64 (H,), rows of items; that of a pair is `history[begin:end]`.
    """

    folder: Path
    items: pl.DataFrame
    pairs: pl.DataFrame
    report: dict[str, Any]
    history: npt.NDArray[np.int64] | None = None

    def part(self, name: Literal["train", "validation", "test", "cold"]) -> pl.DataFrame:
        """The pairs of one part of the split."""
        return self.pairs.filter(pl.col("part") == name)

    @property
    def split_hash(self) -> str:
        """sha256 over the parts and their pairs."""
        return str(self.report["split_hash"])


def prepare(
    experiment: Experiment,
    base: Path,
    cache: Path = CACHE,
    refresh: bool = False,
    console: Console | None = None,
) -> Dataset:
    """The data set of an experiment, built if what it is made from has changed.

    Args:
        base: the folder of the TOML; paths in it are relative to this.
        cache: parent of the folders of data sets.
        refresh: fetch and read again, whatever is there.
        console: for progress; standard error if None.

    Raises:
        DataError: the data is absent or at fault; the text names file, row and column.
    """
    console = console or Console(stderr=True)
    identify, read = _open(experiment, base, cache, refresh, console)
    identity = identify()
    fingerprint = _fingerprint(experiment, identity)
    folder = cache / f"{experiment.name}-{fingerprint[:12]}"
    if folder.is_dir() and not refresh:
        return load(folder)
    tables = sample_groups(read(), experiment.data.max_items, experiment.split.seed)
    if identify() != identity:
        raise DataError(
            f"{experiment.name}: the data ({experiment.data.kind}) changed while they were read; "
            "run the command again"
        )
    _check_columns(experiment, tables)
    pairs = split.assign(tables.pairs, experiment.split)
    history = None
    if tables.history is not None:
        history = sequence_split.history_of(pairs, experiment.split)
    report = _report(experiment, tables, pairs, fingerprint)
    _write(folder, tables.items, pairs, history, report, refresh)
    return load(folder)


def load(folder: Path) -> Dataset:
    """The data set that lies in `folder`.

    Raises:
        DataError: a file of it is missing or damaged.
    """
    try:
        report = parse_json((folder / REPORT).read_bytes())
        items, pairs = pl.read_parquet(folder / ITEMS), pl.read_parquet(folder / PAIRS)
        history = None
        if "users" in report:
            column = pl.read_parquet(folder / HISTORY)["history"]
            history = column.cast(pl.Int64).to_numpy(writable=True)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{folder}: damaged ({error}); delete it to build it again") from None
    return Dataset(folder, items, pairs, report, history)


def _open(
    experiment: Experiment, base: Path, cache: Path, refresh: bool, console: Console
) -> tuple[Callable[[], str], Callable[[], Tables]]:
    """A function that gives the identity of the data on disk, and one that reads them."""
    data = experiment.data
    if isinstance(data, PydocsData):
        return pydocs.identity, lambda: pydocs.read(console)
    if isinstance(data, DebianData):
        found = debian.lists(cache / "apt", console, refresh)
        return found.identity, lambda: debian.read(found)
    if isinstance(data, MovielensData):
        wheel = movielens.wheel(cache / "movielens", console, refresh)
        return lambda: movielens.SHA256, lambda: movielens.read(wheel, data)
    features = experiment.query, experiment.item
    if isinstance(data, EventsData):
        log = events.EventsSource(data, base, *features, experiment.split.test_file)
        return log.identity, lambda: log.read(console)
    source = files.FilesSource(data, base, *features, experiment.split.test_file)
    return source.identity, source.read


def _fingerprint(experiment: Experiment, identity: str) -> str:
    """sha256 over everything that the tables follow from."""
    digest = hashlib.sha256(identity.encode())
    columns = {
        side: {name: names_of({name: spec}) for name, spec in getattr(experiment, side).items()}
        for side in ("query", "item")
    }
    sections = [dataclasses.asdict(experiment.data), dataclasses.asdict(experiment.split), columns]
    digest.update(json.dumps(sections, sort_keys=True).encode())
    digest.update(program(__name__).encode())
    return digest.hexdigest()


def _check_columns(experiment: Experiment, tables: Tables) -> None:
    """Every column that a feature reads is there."""
    kind = experiment.data.kind
    for side, table in (("query", tables.pairs), ("item", tables.items)):
        present = [name for name in table.columns if side == "item" or name not in tables.reserved]
        for name, spec in getattr(experiment, side).items():
            if isinstance(spec, HistoryFeature) and tables.history is None:
                raise DataError(f"{kind}: {side}.{name} is a history, and these data know of no users")
            for column in names_of({name: spec}):
                if column not in present:
                    raise DataError(
                        f"{kind}: {side}.{name} reads column {column!r}, which the {side} table does "
                        f"not have; it has {', '.join(present)}"
                    )


def _report(experiment: Experiment, tables: Tables, pairs: pl.DataFrame, fingerprint: str) -> dict[str, Any]:
    texts = [spec for spec in experiment.item.values() if isinstance(spec, TextFeature)]
    queries = names_of(experiment.query) if tables.history is None else ["group", "position"]
    report = {
        "name": experiment.name,
        "kind": experiment.data.kind,
        "items": tables.items.height,
        "pairs": pairs.height,
        "groups": pairs["group"].n_unique(),
        "parts": {part: pairs.filter(pl.col("part") == part).height for part in split.PARTS},
        "display": list(tables.display),
        "dropped": dict(sorted(tables.dropped.items())),
        "changed": dict(sorted(tables.changed.items())),
        "evaluated_text": [spec.column for spec in texts],
        "served_text": [spec.catalogue_column or spec.column for spec in texts],
        "split": dataclasses.asdict(experiment.split),
        "split_hash": split.split_hash(pairs, tables.items["item_id"], set(queries)),
        "fingerprint": fingerprint,
        "origin": dict(tables.origin),
    }
    if tables.history is None:
        return report
    repeats = getattr(experiment.data, "repeats", "first")  # MovieLens has none
    return report | {"repeats": repeats} | _report_of_users(tables, pairs)


def _report_of_users(tables: Tables, pairs: pl.DataFrame) -> dict[str, Any]:
    """What there is to say of events beside what holds for all pairs."""
    cold = pairs.filter(pl.col("part") == split.COLD)
    return {
        "users": pairs["group"].n_unique(),
        "users_by_part": {
            part: pairs.filter(pl.col("part") == part)["group"].n_unique() for part in split.PARTS
        },
        "order": tables.order,
        "cold_items": cold["item_row"].n_unique(),
        "cold_records": cold.height,
    }


def _write(
    folder: Path,
    items: pl.DataFrame,
    pairs: pl.DataFrame,
    history: pl.Series | None,
    report: dict[str, Any],
    refresh: bool,
) -> None:
    """The folder, whole or not at all. One that another process has put there meanwhile is kept.

    Args:
        refresh: replace the folder if it is there.
    """
    with drafts.draft(folder.parent, ".dataset-") as draft:
        _fill(draft, items, pairs, history, report)
        draft.chmod(0o755)
        if refresh and folder.is_dir():
            drafts.remove(folder)
        try:
            os.rename(draft, folder)
        except OSError:
            if not (folder / REPORT).is_file():
                raise
        sync(folder.parent)


def _fill(
    draft: Path, items: pl.DataFrame, pairs: pl.DataFrame, history: pl.Series | None, report: dict[str, Any]
) -> None:
    """Write all files of a data set into a folder.

    Raises:
        DataError: they cannot be written, for example because the disk is full.
    """
    try:
        items.write_parquet(draft / ITEMS)
        pairs.write_parquet(draft / PAIRS)
        if history is not None:
            history.to_frame().write_parquet(draft / HISTORY)
        (draft / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        for path in (*draft.iterdir(), draft):
            sync(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{draft.parent}: the data set cannot be written: {error}") from None
