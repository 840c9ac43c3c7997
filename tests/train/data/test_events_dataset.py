"""A data set of events is stored with its history, for every split."""

import io
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from twinspire.protos.errors import DataError
from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    TextFeature,
    TimeFeature,
)
from twinspire.train.__main__ import show_data
from twinspire.train.config import Experiment
from twinspire.train.config.data import SplitConfig
from twinspire.train.config.history_towers import SequenceTower
from twinspire.train.config.losses import InBatchSoftmax
from twinspire.train.config.towers import BagTower, ClicksTower
from twinspire.train.data import columns, long_arrays, partitions, source, table_files, training_data
from twinspire.train.data import dataset as dataset_module
from twinspire.train.data.cleaning import Derived
from twinspire.train.data.contents import contents
from twinspire.train.data.dataset import Dataset, prepare
from twinspire.train.data.partitions import Partitions, PartitionWriter
from twinspire.train.data.sources.events import EventsData
from twinspire.train.data.sources.files import FilesData
from twinspire.train.data.splits import split_hash
from twinspire.train.data.training_data import Positives, training_data_of
from twinspire.train.models.collaborative import interaction_matrix

DATA = EventsData(
    "events",
    "log.csv",
    time="at",
    session="visit",
    items="items.csv",
    derive={"month": Derived("at", "month")},
)
EXPERIMENT = Experiment(
    name="clicks",
    data=DATA,
    query={"history": HistoryFeature("history"), "month": CategoryFeature("category", "month")},
    item={"id": IdFeature("id"), "text": TextFeature("text", "title")},
    tower=BagTower("bag"),
    loss=InBatchSoftmax("in_batch_softmax"),
    split=SplitConfig(by="last"),
)
TIME = SplitConfig(by="time")
SPLITS = {
    "last": SplitConfig(by="last"),
    "last_session": SplitConfig(by="last_session", min_history=3),
    "time": SplitConfig(by="time"),
    "group": SplitConfig(by="group"),
    "random": SplitConfig(by="random"),
    "cold": SplitConfig(by="last", cold_items=0.1),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    lines = [f"u{n % 30},i{random.integers(50)},{n * 86400},s{n // 90}\n" for n in range(550)]
    (tmp_path / "log.csv").write_text("user_id,item_id,at,visit\n" + "".join(lines))
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"i{n},title {n}\n" for n in range(50)))
    return tmp_path


@pytest.fixture
def made(base: Path) -> Callable[..., Dataset]:
    def make(experiment: Experiment = EXPERIMENT, **split: Any) -> Dataset:
        return prepare(experiment, base, base / "cache", console=Console(file=io.StringIO()))

    return make


def test_the_history_is_stored_beside_the_pairs(made: Callable[..., Dataset]) -> None:
    data = made()
    assert data.items.columns == ["item_id", "title"]
    columns = ["month", "item_row", "weight", "label", "group", "time", "session", "position", "user_start"]
    assert data.pairs.columns == [*columns, "part", "begin", "end", "negative_begin", "negative_end"]
    assert data.history is not None
    assert data.history.dtype == np.int32
    assert len(data.history) == data.pairs.height == 550
    assert data.report["users"] == 30
    assert data.report["users_by_part"] == {"train": 30, "validation": 30, "test": 30}
    assert data.report["order"] == "time"
    assert data.report["cold_items"] == 0
    assert data.report["parts"] == {"train": 490, "validation": 30, "test": 30}
    assert json.loads((data.folder / "dataset.json").read_text()) == data.report
    again = made()
    assert again.history is not None
    assert np.array_equal(again.history, data.history)
    assert again.pairs.equals(data.pairs)


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_is_the_same_after_a_reload(made: Callable[..., Dataset], split: str) -> None:
    data = made(replace(EXPERIMENT, split=SPLITS[split]))
    assert data.history is not None
    begin, end = (data.pairs[name].to_numpy() for name in ("begin", "end"))
    assert (begin <= end).all()
    assert end.max() <= len(data.history)
    cold = data.part("cold")
    assert data.report["cold_items"] == cold["item_row"].n_unique() == (5 if split == "cold" else 0)
    assert not set(cold["item_row"]) & set(data.history.tolist())
    # Whatever the split, a user's training events lie in the user's own run, in order.
    for (user,), events in data.part("train").group_by("group"):
        run = data.history[events["user_start"][0] :]
        positions = events["position"].to_numpy()
        assert run[positions].tolist() == events["item_row"].to_list(), user


def test_a_log_in_partitions_is_the_data_set_of_the_same_log_in_one_file(
    made: Callable[..., Dataset], base: Path
) -> None:
    whole = made()
    log = pl.read_csv(base / "log.csv", infer_schema=False)
    for n, rows in enumerate(log.iter_slices(100)):
        (base / "log" / f"part={n}").mkdir(parents=True)
        rows.write_parquet(base / "log" / f"part={n}" / "rows.parquet")
    divided = made(replace(EXPERIMENT, data=replace(DATA, events="log")))
    assert divided.split_hash == whole.split_hash
    for name in ("pairs.parquet", "history.parquet", "negatives.parquet"):
        assert (divided.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    divided_by_part = replace(DATA, events="log", filters=("part <> '3'",))
    assert made(replace(EXPERIMENT, data=divided_by_part)).report["dropped"] == {"not part <> '3'": 100}


LOGS: dict[str, dict[str, Any]] = {
    "items": {},
    "labels": {"label": "stars", "positive_from": 2, "repeats": "first", "weight": "stars"},
    "no items": {"items": "", "min_user_events": 15, "filters": ("stars > 0", "at > 86400")},
    "item columns": {"items": "", "item_columns": {"title": "most_common"}},
    "no times": {"time": "", "derive": {}, "session": ""},
    "mean": {"filters": ("stars > AVG(stars)",)},
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("log", LOGS)
def test_a_log_larger_than_memory_gives_the_same_data_set(
    base: Path, monkeypatch: pytest.MonkeyPatch, split: str, log: str
) -> None:
    """Slices, partitions and files of a few events, beside one of each."""
    if log == "no times" and split in ("time", "last_session"):
        return
    draw = np.random.default_rng(1)
    events = draw.integers([0, 0, 4, 0], [60, 50, 600, 6], (1500, 4))
    lines = [
        f"u{u},i{i},{at * 43200},s{n // 20},{stars},t{n % 7}\n" for n, (u, i, at, stars) in enumerate(events)
    ]
    (base / "log.csv").write_text("user_id,item_id,at,visit,stars,title\n" + "".join(lines))
    data = replace(DATA, casts={"stars": "number", "at": "number"}, **LOGS[log])
    history: dict[str, FeatureSpec] = {"history": HistoryFeature("history")}
    ids: dict[str, FeatureSpec] = {"id": IdFeature("id")}
    query = EXPERIMENT.query if data.time else history
    item = EXPERIMENT.item if data.items or data.item_columns else ids
    experiment = replace(EXPERIMENT, data=data, query=query, item=item, split=SPLITS[split])

    def build(cache: str, most: int = 0) -> Dataset:
        sampled = replace(experiment, data=replace(experiment.data, max_items=most))
        return prepare(sampled, base, base / cache, console=Console(file=io.StringIO()))

    whole, sample = build("whole"), build("whole", most=40)
    parts: list[int] = []
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 70)
    monkeypatch.setattr(table_files, "SLICE", 50)
    monkeypatch.setattr(source, "EVENTS_AT_ONCE", 60)
    monkeypatch.setattr(partitions, "LARGE", 2000)
    monkeypatch.setattr(split_hash, "HASHED_AT_ONCE", 40)
    finish = PartitionWriter.finish
    monkeypatch.setattr(PartitionWriter, "finish", lambda self: _counted(finish(self), parts))
    for expected, found in ((whole, build("pieces")), (sample, build("pieces", most=40))):
        assert found.report == expected.report
        assert found.items.equals(expected.items)
        for path in expected.folder.glob("*.parquet"):
            assert pl.read_parquet(found.folder / path.name).equals(pl.read_parquet(path)), path.name
    assert max(parts) > 5


def _counted(table: Partitions, counts: list[int]) -> Partitions:
    counts.append(len(table))
    return table


def test_the_files_have_no_keys_of_users(made: Callable[..., Dataset], base: Path) -> None:
    users = pl.read_csv(base / "log.csv", infer_schema=False)["user_id"].unique()
    data = made()
    assert data.report["users"] == data.pairs["group"].n_unique() > 10
    for path in data.folder.glob("*.parquet"):
        for column in pl.read_parquet(path).select(pl.selectors.string()):
            assert not column.is_in(users.implode()).any(), (path.name, column.name)


@pytest.mark.parametrize("split", SPLITS)
def test_data_that_are_read_in_ranges_are_those_that_are_read_at_once(
    made: Callable[..., Dataset], split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = replace(EXPERIMENT, split=SPLITS[split])
    dataset = made(experiment)
    whole, lines = training_data_of(dataset, experiment.query, experiment.item), contents(dataset, experiment)
    monkeypatch.setattr(dataset_module, "RANGE", 25)
    monkeypatch.setattr(long_arrays, "LARGE", 100)
    monkeypatch.setattr(long_arrays, "PIECE", 7)
    assert len([*dataset.ranges("part")]) > 10
    again = dataset_module.load(dataset.folder)
    pieces = training_data_of(again, experiment.query, experiment.item)
    assert contents(again, experiment) == lines
    assert whole.histories is not None and pieces.histories is not None
    for name in ("run", "begin", "end", "steps"):
        np.testing.assert_array_equal(getattr(pieces.histories, name), getattr(whole.histories, name))
    np.testing.assert_array_equal(pieces.moments, whole.moments)
    assert (pieces.query_count, pieces.queries["month"]) == (whole.query_count, whole.queries["month"])
    assert pieces.counts().tolist() == whole.counts().tolist()
    for part, pairs in whole.parts.items():
        for each in fields(pairs):
            np.testing.assert_array_equal(getattr(pieces.parts[part], each.name), getattr(pairs, each.name))
    for data in (whole, pieces):
        place, item = Positives.of(data.parts["train"], data.query_count).of_queries(
            np.arange(data.query_count)
        )
        train = data.parts["train"]
        assert {*zip(place.tolist(), item.tolist(), strict=True)} == {
            *zip(train.query.tolist(), train.item.tolist(), strict=True)
        }


def test_of_many_users_some_are_tested_and_read_by_baselines(
    made: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = made()
    every = training_data_of(dataset, EXPERIMENT.query, EXPERIMENT.item)
    users = interaction_matrix(every).shape[0]
    monkeypatch.setattr(training_data, "MOST_TESTED", 10)
    monkeypatch.setattr(training_data, "MOST_READ", 200)
    some = training_data_of(dataset, EXPERIMENT.query, EXPERIMENT.item)
    for part, most in (("test", 10), ("validation", 10), ("train", 200)):
        pairs, whole = some.some_pairs if part == "train" else some.parts[part], every.parts[part]
        assert most / 2 < len(pairs) <= most < len(whole)
        assert pairs.user is not None and whole.user is not None
        of_users = np.isin(whole.user, pairs.user)  # all pairs of each user that is drawn
        np.testing.assert_array_equal(whole.where(of_users).query, pairs.query)
    assert len(some.parts["train"]) == len(every.parts["train"])
    refitted = some.with_validation().parts["train"]  # learns from all of validation
    assert len(refitted) == len(every.parts["train"]) + len(every.parts["validation"])
    assert len(every.parts["test"].of_some_users(1, 0)) >= 1
    assert interaction_matrix(some).shape[0] < users


@pytest.mark.parametrize("split", ["last", "time"])
def test_each_event_of_a_history_has_its_time(made: Callable[..., Dataset], base: Path, split: str) -> None:
    query: dict[str, FeatureSpec] = {
        "history": HistoryFeature("history", times=True),
        "time": TimeFeature("time"),
    }
    tower = SequenceTower("sequence", ages=True)
    experiment = replace(EXPERIMENT, query=query, tower=tower, loss=tower.usual_loss, split=SPLITS[split])
    dataset = made(experiment)
    data = training_data_of(dataset, experiment.query, experiment.item)
    rows = [line.split(",") for line in (base / "log.csv").read_text().splitlines()[1:]]
    when = {(user, float(at)): item for user, item, at, _ in rows}
    users = sorted({user for user, _ in when})  # of which the data set knows the places alone
    places = dataset.part("train")["group"]
    user_of = {row: users[n] for row, n in zip(data.parts["train"].query.tolist(), places, strict=True)}
    assert len(user_of) > 100
    for row, user in user_of.items():
        history = data.queries["history"][row]
        assert [when[user, at] for _, at in history] == [item for item, _ in history]
        times = [at for _, at in history]
        assert times == sorted(times) and all(at <= data.queries["time"][row] for at in times)
    plain = training_data_of(dataset, {"history": HistoryFeature("history")}, experiment.item)
    assert plain.histories is not None and plain.histories.times is None


@pytest.mark.parametrize("split", SPLITS)
def test_no_event_of_another_part_says_when_a_query_was_asked(
    made: Callable[..., Dataset], split: str
) -> None:
    query = {"history": EXPERIMENT.query["history"]}
    experiment = replace(EXPERIMENT, data=replace(DATA, derive={}), query=query, split=SPLITS[split])
    data = training_data_of(made(experiment), experiment.query, experiment.item)
    assert data.moments is not None
    of_part = {name: set(pairs.query.tolist()) for name, pairs in data.parts.items()}
    assert sum(map(len, of_part.values())) == len(set.union(*of_part.values())) == data.query_count
    for pairs in data.parts.values():
        assert pairs.time is not None
        for row in np.unique(pairs.query):
            assert data.moments[row] == pairs.time[pairs.query == row].min()


def test_the_time_of_a_query_is_that_of_its_earliest_event(made: Callable[..., Dataset]) -> None:
    query: dict[str, Any] = {"history": EXPERIMENT.query["history"], "asked": TimeFeature("time")}
    tower = SequenceTower("sequence", recent_popularity=4)
    experiment = replace(EXPERIMENT, data=replace(DATA, derive={}), query=query, tower=tower)
    data = training_data_of(made(experiment), experiment.query, experiment.item)
    assert data.moments is not None
    assert data.queries["asked"] == data.moments.tolist()
    assert data.training_values()["query"]["asked"]
    without = replace(experiment, data=replace(DATA, time="", derive={}))
    with pytest.raises(DataError, match=r"query\.asked is the time of a query, but these data have no times"):
        made(without)


def test_steps_are_sessions_where_the_split_is_by_session(made: Callable[..., Dataset]) -> None:
    for split, expected in (("last", False), ("last_session", True)):
        experiment = replace(EXPERIMENT, split=SPLITS[split])
        dataset = made(experiment)
        data = training_data_of(dataset, experiment.query, experiment.item)
        assert data.histories is not None
        assert (data.histories.steps is not None) == expected
    assert data.histories is not None and data.histories.steps is not None
    events = {name: dataset.in_history(name) for name in ("item_row", "group", "session")}
    assert events["item_row"].to_list() == data.histories.run.tolist()
    seen: dict[tuple[str, str], int] = {}
    for user, session, step in zip(events["group"], events["session"], data.histories.steps, strict=True):
        assert seen.setdefault((user, session), step) == step
    assert len({*seen.values()}) == len(seen)


TEXT = replace(
    EXPERIMENT,
    data=FilesData("files", "items.csv", "pairs.csv"),
    query={"text": TextFeature("text", "query")},
    split=SplitConfig(),
)


def test_items_with_ids_may_lack_texts_which_are_counted(made: Callable[..., Dataset], base: Path) -> None:
    table = "item_id,title\n" + "".join(
        f"i{n},{'' if n == 3 else ' ' if n == 4 else 'title'}\n" for n in range(50)
    )
    (base / "items.csv").write_text(table)
    data = made()
    assert data.items["title"].to_list() == ["title"] * 3 + ["", ""] + ["title"] * 45
    assert data.report["changed"] == {"item without a text in 'title', read as an empty one": 2}
    item = {"text": EXPERIMENT.item["text"]}
    with pytest.raises(DataError, match=r"items\.csv: row 4, column 'title': expected text, got null"):
        made(replace(EXPERIMENT, item=item))


def test_pairs_without_users_have_no_history(made: Callable[..., Dataset], base: Path) -> None:
    pairs = "".join(f"about {n},i{n % 50}\n" for n in range(200))
    (base / "pairs.csv").write_text("query,item_id\n" + pairs)
    data = made(TEXT)
    assert data.history is None
    assert not (data.folder / "history.parquet").exists()
    assert "users" not in data.report
    remembering = replace(TEXT, query={**TEXT.query, "history": HistoryFeature("history")})
    with pytest.raises(DataError, match=r"files: query\.history is a history"):
        made(remembering)
    for split in (SplitConfig(by="last"), SplitConfig(cold_items=0.1)):
        with pytest.raises(DataError, match="needs events of users"):
            made(replace(TEXT, split=split))


def test_a_negative_history_needs_negative_events(made: Callable[..., Dataset]) -> None:
    query = {**EXPERIMENT.query, "skipped": HistoryFeature("negative_history")}
    tower = ClicksTower("clicks")
    clicks = replace(EXPERIMENT, query=query, tower=tower, loss=tower.usual_loss, split=TIME)
    with pytest.raises(DataError, match=r"query\.skipped is a negative history, but these data have no"):
        made(clicks)


def test_a_split_by_time_of_new_users_says_that_they_have_no_history(
    made: Callable[..., Dataset], base: Path
) -> None:
    events = [f"u{n // 5},i{n % 5},{1_000_000_000 + n},s\n" for n in range(500)]
    (base / "log.csv").write_text("user_id,item_id,at,visit\n" + "".join(events))
    console = Console(file=io.StringIO(), width=50)
    show_data({"contents": [], **made(replace(EXPERIMENT, split=TIME)).report}, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    advice = '; with [split] history = "event" each has the events before it'
    assert f"test: 50 of 50 pairs have no history{advice}" in lines
    assert "times: 2001-09-09 01:46 to 2001-09-09 01:54 UTC" in lines
