"""MovieLens-100K (Harper and Konstan 2015): given the films that a user rated, predict the next.

    [data]
    kind = "movielens"

The wheel of the package recbole contains the data as three tab-separated tables. pip downloads the wheel,
which is read as a zip archive and not installed. Its sha256 is pinned, so the data are always the same.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from rich.console import Console

from twinspire.protos.bundle import record
from twinspire.protos.errors import DataError
from twinspire.train.config.checks import at_least
from twinspire.train.data.columns import Columns, rows_of, weights_of
from twinspire.train.data.source import (
    BY_TIME,
    SourceConfig,
    SourceContext,
    Tables,
    add_positions,
    sort_and_filter,
)

REQUIREMENT = "recbole==1.2.1"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
LICENCE = (
    "MovieLens-100K of GroupLens Research, University of Minnesota: for research, not for revenue, and not "
    "to be passed on without permission; cite Harper and Konstan 2015, The MovieLens Datasets, "
    "https://doi.org/10.1145/2827872"
)

_TABLES = "recbole/dataset_example/ml-100k/ml-100k"
_NO_YEAR = "release year that is no number, taken as absent"


@dataclass(frozen=True)
class MovielensData(SourceConfig):
    """`[data]` of kind `movielens`.

    Args:
        positive_from: a rating is positive if it is at least this; 0 makes every rating positive.
        min_user_events: users with fewer ratings than this are dropped.
    """

    kind: Literal["movielens"]
    positive_from: float = 0.0
    min_user_events: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "positive_from")
        at_least(1, self, "min_user_events")

    def open(self, context: SourceContext) -> "MovielensSource":
        """The tables of the wheel, which is downloaded unless it is in the cache."""
        return MovielensSource(self, wheel(context.cache / "movielens", context.console, context.refresh))


def wheel(folder: Path, console: Console, refresh: bool = False, sha256: str = SHA256) -> Path:
    """Path of the wheel in `folder`; downloaded if it is missing, or if `refresh` is set.

    Raises:
        DataError: pip cannot download the wheel, or its sha256 is wrong.
    """
    path = folder / WHEEL
    if refresh or not path.is_file():
        console.print(LICENCE)
        with console.status(f"pip: fetching {REQUIREMENT}"):
            _fetch(path, sha256)
    _check(path, sha256)
    return path


@dataclass(frozen=True)
class MovielensSource:
    """The tables in the wheel at `path`."""

    data: MovielensData
    path: Path

    def identity(self) -> str:
        """sha256 of the wheel, which is pinned."""
        return SHA256

    def read(self) -> Tables:
        """Films, ratings in order of time, and the history of all users.

        Raises:
            DataError: a table of the wheel is missing or damaged.
        """
        items, changed = _items(self.path)
        positive_from = self.data.positive_from
        events = _ratings(self.path, items["item_id"], positive_from)
        events, dropped = sort_and_filter(events, min_user_events=self.data.min_user_events)
        pairs, history = add_positions(events)
        if history.is_empty():
            raise DataError(f"data: no rating is left that is at least {positive_from:g}; dropped: {dropped}")
        origin = {"licence": LICENCE, "package": REQUIREMENT, "wheel_sha256": record(self.path).sha256}
        return Tables(items, pairs, ("title", "year"), dropped, changed, origin, history, BY_TIME)


def _ratings(path: Path, item_ids: pl.Series, positive_from: float) -> pl.DataFrame:
    """Ratings with the columns that `train.data.source` describes, and columns of their users."""
    users = _table(path, "user")
    strings = {name: users.strings(name) for name in ("gender", "occupation")}
    profiles = pl.DataFrame({"group": users.unique_ids("user_id"), "age": users.numbers("age"), **strings})
    ratings = _table(path, "inter")
    rating = ratings.numbers("rating")
    ratings.refuse("rating", rating.is_null(), "a number")
    time = ratings.times("timestamp")
    ratings.refuse("timestamp", time < 0, "a time of at least 0 (1970-01-01)")
    table = {
        "group": ratings.required("user_id", "a user"),
        "item_row": rows_of(ratings, "item_id", item_ids, f"{_TABLES}.item"),
        "weight": weights_of(ratings, ""),
        "label": (rating >= positive_from).cast(pl.Float32),
        "time": time,
    }
    return pl.DataFrame(table).join(profiles, on="group", how="left", maintain_order="left")


def _items(path: Path) -> tuple[pl.DataFrame, dict[str, int]]:
    films = _table(path, "item")
    year = films.strings("release_year").cast(pl.Float64, strict=False)
    genres = films.strings("class").fill_null("").str.split(" ")
    items = pl.DataFrame(
        {
            "item_id": films.unique_ids("item_id"),
            "title": films.required("movie_title", "a title"),
            "year": year,
            "released": films.strings("release_year"),
            "genres": genres.list.eval(pl.element().filter(pl.element() != "")),
        }
    )
    return items, {_NO_YEAR: year.null_count()} if year.null_count() else {}


def _table(path: Path, name: str) -> Columns:
    """A table of the wheel; the types in its header (`user_id:token`) are cut off."""
    member = f"{_TABLES}.{name}"
    place = path / member
    try:
        with zipfile.ZipFile(path) as archive:
            lines = archive.read(member).decode().splitlines()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{place}: cannot be read: {error}") from None
    header, *rows = [line.split("\t") for line in lines] or [[]]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{place}: row {number}: expected {len(header)} fields, got {len(row)}")
    names = [each.partition(":")[0] for each in header]
    columns = {name: [row[n] or None for row in rows] for n, name in enumerate(names)}
    frame = pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))
    for required in _COLUMNS[name]:
        if required not in names:
            raise DataError(f"{place}: column {required!r} is missing; columns present: {', '.join(names)}")
    return Columns(place, frame)


_COLUMNS = {
    "inter": ("user_id", "item_id", "rating", "timestamp"),
    "item": ("item_id", "movie_title", "release_year", "class"),
    "user": ("user_id", "age", "gender", "occupation"),
}


def _fetch(path: Path, sha256: str) -> None:
    """Download the wheel and check it before it is moved to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".wheel-", dir=path.parent))
    arguments = ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    arguments += ["--retries", "2", "--timeout", "15"]
    command = [sys.executable, "-m", "pip", *arguments, "--dest", str(draft), REQUIREMENT]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not (draft / WHEEL).is_file():
            raise DataError(
                f"pip could not fetch {REQUIREMENT}, which carries MovieLens-100K; without a network, put "
                f"{WHEEL} into {path.parent}. pip said: {done.stderr.strip()[-500:]}"
            )
        _check(draft / WHEEL, sha256)
        os.replace(draft / WHEEL, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check(path: Path, sha256: str) -> None:
    found = record(path).sha256
    if found != sha256:
        raise DataError(f"{path}: expected the wheel with sha256 {sha256}, got {found}; delete it")
