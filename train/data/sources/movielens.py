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
from twinspire.train.data.source import (
    BY_TIME,
    SourceConfig,
    SourceContext,
    Tables,
    filter_events,
    has_positive,
    sort_events,
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
        sorted_events, users = sort_events([events])
        pairs, dropped = filter_events(sorted_events, min_user_events=self.data.min_user_events)
        if not has_positive(pairs):
            raise DataError(f"data: no rating is left that is at least {positive_from:g}; dropped: {dropped}")
        origin = {"licence": LICENCE, "package": REQUIREMENT, "wheel_sha256": record(self.path).sha256}
        return Tables(items, pairs, ("title", "year"), dropped, changed, origin, users, BY_TIME)


def _ratings(path: Path, item_ids: pl.Series, positive_from: float) -> pl.DataFrame:
    """Ratings with the columns that `train.data.source` describes, and columns of their users."""
    ratings = _table(path, "inter")
    films = pl.DataFrame({"item_id": item_ids}).with_row_index("item_row")
    users = _table(path, "user").select(
        pl.col("user_id").alias("group"), pl.col("age").cast(pl.Float64), "gender", "occupation"
    )
    return (
        ratings.join(films, on="item_id", how="left", maintain_order="left")
        .select(
            pl.col("user_id").alias("group"),
            "item_row",
            pl.lit(1.0, pl.Float32).alias("weight"),
            (pl.col("rating").cast(pl.Float64) >= positive_from).cast(pl.Float32).alias("label"),
            pl.col("timestamp").cast(pl.Float64).alias("time"),
        )
        .join(users, on="group", how="left", maintain_order="left")
    )


def _items(path: Path) -> tuple[pl.DataFrame, dict[str, int]]:
    genres = pl.col("class").fill_null("").str.split(" ")
    items = _table(path, "item").select(
        "item_id",
        pl.col("movie_title").alias("title"),
        pl.col("release_year").cast(pl.Float64, strict=False).alias("year"),
        pl.col("release_year").alias("released"),
        genres.list.eval(pl.element().filter(pl.element() != "")).alias("genres"),
    )
    absent = items["year"].null_count()
    return items, {_NO_YEAR: absent} if absent else {}


def _table(path: Path, name: str) -> pl.DataFrame:
    """A table of the wheel, all strings; the types in its header (`user_id:token`) are cut off."""
    place = f"{_TABLES}.{name}"
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(place)
        table = pl.read_csv(content, separator="\t", quote_char=None, infer_schema=False)
    except (OSError, KeyError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path / place}: cannot be read: {error}") from None
    return table.rename(lambda each: each.partition(":")[0])


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
