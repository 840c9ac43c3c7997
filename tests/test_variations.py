"""The variations of an event log on which a recipe is tried."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.helpers import variations
from tests.helpers.variations import LEAST_EVENTS, LONGEST, VARIATIONS

COLUMNS = ("who", "what", "at")


@pytest.fixture
def log() -> pl.DataFrame:
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(20), random.integers(2, 30, 20))
    items = (random.pareto(1.0, len(users)) * 3).astype(int)
    return pl.DataFrame({"who": users, "what": items, "at": random.permutation(len(users))})


def varied(name: str, log: pl.DataFrame) -> pl.DataFrame:
    found = VARIATIONS[name](log, *COLUMNS)
    assert 0 < found.height < log.height
    assert found.join(log, on=COLUMNS, how="anti").is_empty()  # events of the log and no others
    return found


def test_half_of_the_users_keep_all_their_events(log: pl.DataFrame) -> None:
    found = varied("halve_users", log)
    assert found["who"].n_unique() == 10
    assert found.equals(log.filter(pl.col("who").is_in(found["who"].unique().implode())))


def test_the_first_half_ends_before_the_second_begins(log: pl.DataFrame) -> None:
    found = varied("first_half", log)
    left = log.join(found, on=COLUMNS, how="anti")
    assert abs(found.height - left.height) <= 1
    assert found["at"].max() < left["at"].min()  # type: ignore[operator]


def test_of_each_user_the_last_events_are_left(log: pl.DataFrame) -> None:
    found = varied("cut_to_five", log)
    assert found.group_by("who").len()["len"].max() == LONGEST
    for user, events in log.group_by("who"):
        last = events["at"].sort().tail(LONGEST)
        assert found.filter(pl.col("who") == user[0])["at"].sort().equals(last)


def test_rare_items_are_dropped_and_others_keep_all_events(log: pl.DataFrame) -> None:
    found = varied("drop_rare_items", log)
    counts = dict(log.group_by("what").len().iter_rows())
    assert {*found["what"]} == {item for item, count in counts.items() if count >= LEAST_EVENTS}
    assert found.height == sum(count for count in counts.values() if count >= LEAST_EVENTS)


def test_the_command_writes_a_table(
    log: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_parquet(tmp_path / "log.parquet")
    variations.main(str(tmp_path / "log.parquet"), "cut_to_five", *COLUMNS)
    assert pl.read_csv(io.StringIO(capsys.readouterr().out)).equals(varied("cut_to_five", log))
