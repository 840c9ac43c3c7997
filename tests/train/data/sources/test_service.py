"""What was shown and clicked becomes pairs once the window has closed, beside those of before."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import polars as pl
import pytest

from tests.helpers.served import START, Answer, event, write_events, write_log
from tests.helpers.sources import source_context
from twinspire.protos.errors import ConfigError, DataError
from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    TextFeature,
)
from twinspire.train.config import read_experiment
from twinspire.train.config.data import RecordedEventsConfig
from twinspire.train.data.dataset import prepare
from twinspire.train.data.source import BY_RANKING, Source, Tables
from twinspire.train.data.sources.service import ServiceData, ServiceSource

HOUR = 3600.0
DAY = 24 * HOUR
QUERY: dict[str, FeatureSpec] = {
    "text": TextFeature(kind="text", column="query"),
    "device": CategoryFeature(kind="category", column="kind_of_device"),
}
HISTORY: dict[str, FeatureSpec] = {"history": HistoryFeature(kind="history")}
ITEM: dict[str, FeatureSpec] = {"title": TextFeature(kind="text", column="title")}
ID: dict[str, FeatureSpec] = {**ITEM, "id": IdFeature(kind="id")}
ITEMS = "item_id,title\n" + "".join(f"{each},a {each}\n" for each in ("lamp", "desk", "chair", "sofa"))
TYPES = RecordedEventsConfig({"click": 1, "dislike": -1})
BEFORE = """
name = "shop"
data = { kind = "files", items = "items.csv", pairs = "clicks.csv", time = "at", display = ["title"] }
query.text = { kind = "text", column = "query" }
item.title = { kind = "text", column = "title" }
tower.kind = "bag"
"""
LOOP = """
name = "shop"
data = { kind = "service", items = "items.csv", log = "served", events = "events.parquet" }
split.by = "last"
query.history.kind = "history"
item.id.kind = "id"
tower.kind = "sequence"
"""
PHONE = {"text": "Light", "device": "phone"}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Answers of two days, the second of which is open, and the tables of before."""
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "clicks.csv").write_text("query,kind_of_device,item_id,at\nwood,pc,desk,1700000000\n")
    (tmp_path / "before.toml").write_text(BEFORE)
    answers = [
        Answer("r1", START, ["lamp", "desk", "chair"], PHONE),
        Answer("r2", START + HOUR, ["chair", "lamp"], {"text": "seat"}),
        Answer("r3", START + 30 * HOUR, ["sofa", "chair"], {"text": "soft"}),
    ]
    write_log(tmp_path / "served", answers[:2])
    write_log(tmp_path / "served", answers[2:], worker=1)
    events = [
        event("u1", "desk", START + 60, "r1"),
        event("u1", "desk", START + 90, "r1"),
        event("u1", "lamp", START + 95, "r1", "view"),
        event("u2", "chair", START + 2 * HOUR, "r2", "dislike"),
        event("u2", "lamp", START + 26 * HOUR, "r2"),
        event("u3", "sofa", START + 30 * HOUR + 5, "r3"),
        event("u3", "lamp", START + 3 * HOUR, "r-unlogged"),
    ]
    write_events(tmp_path / "events.parquet", events)
    return tmp_path


def opened(
    folder: Path, query: dict[str, FeatureSpec] = QUERY, negatives: bool = True, **data: Any
) -> Source:
    item = ID if query is HISTORY else ITEM
    context = replace(source_context(folder, query, item), events=TYPES, learns_from_negatives=negatives)
    given = {"before": "before.toml", "log": "served", "events": "events.parquet"} | data
    return ServiceData(kind="service", **given).open(context)


def rows(tables: Tables, *columns: str) -> list[Any]:
    """Item, label and some columns of each pair, in order."""
    pairs = tables.pairs.collect()
    pairs = pairs.with_columns(item=tables.items["item_id"].gather(pairs["item_row"]))
    if tables.users is not None:
        pairs = pairs.with_columns(group=tables.users.gather(pairs["group"]))
    return pairs.select("item", *columns).rows()


def test_closed_answers_become_pairs_with_labels_beside_those_of_before(shop: Path) -> None:
    tables = opened(shop).read()
    assert rows(tables, "label", "query", "kind_of_device", "group") == [
        ("desk", 1, "wood", "pc", "desk"),
        ("lamp", 0, "Light", "phone", "light"),
        ("desk", 1, "Light", "phone", "light"),
        ("chair", 0, "Light", "phone", "light"),
        ("chair", 0, "seat", None, "seat"),
        ("lamp", 0, "seat", None, "seat"),  # the click came after the window
    ]
    assert tables.display == ("title",)
    assert tables.pairs.collect()["time"].to_list()[:2] == [1_700_000_000, START]
    report = tables.origin["service"]
    assert (report["answers"], report["waiting"], report["clicks"]) == (2, 1, 1)
    assert (report["cutoff"], report["bundles"]) == ("2026-12-02T06:00:05Z", {"b1": 2})
    assert (report["pairs"], report["before_pairs"]) == (5, 1)


def test_a_loss_of_positive_pairs_alone_gets_clicks_alone(shop: Path) -> None:
    tables = opened(shop, negatives=False).read()
    assert rows(tables, "query") == [("desk", "wood"), ("desk", "Light")]
    assert "label" not in tables.pairs.columns


@pytest.mark.parametrize("hours, clicked", [(24.0, ["desk"]), (26.0, ["desk", "lamp"])])
def test_a_click_counts_within_the_window(shop: Path, hours: float, clicked: list[str]) -> None:
    found = opened(shop, before="", items="items.csv", window_hours=hours).read()
    assert [item for item, label in rows(found, "label") if label] == clicked


def test_a_late_event_and_a_later_answer_are_in_the_next_version(shop: Path) -> None:
    until = "2026-12-02T06:00:00"  # five seconds before the click of r3
    before = opened(shop, until=until)
    version, found = before.identity(), rows(before.read(), "label")
    assert version.endswith(" 2026-12-02T06:00:00Z")
    events = pl.read_parquet(shop / "events.parquet").to_dicts()
    for each in events:
        each["recorded"] = each["recorded"].timestamp()
    late = event("u1", "chair", START + 70, "r1", recorded=START + 40 * HOUR)
    again = [event(e["user_id"], e["item_id"], e["time"], e["request_id"], e["type"]) for e in events]
    write_events(shop / "events.parquet", [*again, late])
    write_log(shop / "served", [Answer("r4", START + 60 * HOUR, ["desk"], PHONE)])
    same = opened(shop, until=until)
    assert same.identity() == version
    assert rows(same.read(), "label") == found
    later = opened(shop)
    assert later.identity() != version
    labels = rows(later.read(), "label", "query")
    assert ("chair", 1, "Light") in labels and ("sofa", 1, "soft") in labels


def test_weights_of_the_service_have_mean_one_and_before_has_its_own(shop: Path) -> None:
    tables = opened(shop, before_weight=0.25).read()
    new = tables.pairs.collect().filter(pl.col("time") >= START)
    assert new.filter(pl.col("label") > 0)["weight"].mean() == pytest.approx(1)
    assert tables.pairs.collect()["weight"][0] == 0.25
    share = 0.25 / (0.25 + float(new["weight"].sum()))
    assert tables.origin["service"]["before_share"] == pytest.approx(share)
    alone = opened(shop, before_weight=0.0).read()
    assert alone.pairs.height == 5 and alone.items.height == 4


def test_items_of_another_table_take_the_place_of_those_of_before(shop: Path) -> None:
    (shop / "new.csv").write_text("item_id,title\nlamp,new lamp\nchair,a chair\nstool,a stool\n")
    tables = opened(shop, items="new.csv").read()
    assert tables.items["item_id"].to_list() == ["lamp", "chair", "stool"]
    assert [item for item, _ in rows(tables, "label")] == ["lamp", "chair", "chair", "lamp"]
    assert tables.dropped == {
        "pair of the service with an unknown item": 1, "pair of before with an unknown item": 1
    }  # fmt: skip


def test_without_texts_the_error_names_the_option_of_the_service(shop: Path) -> None:
    write_log(shop / "bare", [Answer("r1", START, ["lamp"], {"device": "phone"})])
    with pytest.raises(DataError, match="--served-log-texts"):
        opened(shop, log="bare").read()
    bare = Answer("r9", START + 5, ["lamp"])
    write_log(shop / "served", [bare], worker=7)
    assert opened(shop).read().dropped == {"answer without the texts of its query": 1}


def test_events_of_users_become_pairs_with_histories(shop: Path) -> None:
    toml = BEFORE.replace('kind = "files"', 'kind = "events", events = "past.csv"')
    toml = toml.replace(', pairs = "clicks.csv"', "").replace(
        'query.text = { kind = "text", column = "query" }', 'query.history.kind = "history"'
    ).replace('tower.kind = "bag"', 'item.id.kind = "id"\ntower.kind = "sequence"')  # fmt: skip
    (shop / "before.toml").write_text(toml)
    (shop / "past.csv").write_text("user_id,item_id,at\nu1,sofa,1600000000\nu1,lamp,1600000100\n")
    tables = opened(shop, HISTORY, negatives=False).read()
    assert rows(tables, "group", "label") == [
        ("sofa", "u1", 1),
        ("lamp", "u1", 1),
        ("desk", "u1", 1),
        ("chair", "u2", 0),
        ("lamp", "u2", 1),
        ("lamp", "u3", 1),
        ("sofa", "u3", 1),
    ]
    labelled = rows(opened(shop, HISTORY).read(), "group", "label")
    assert ("sofa", "u3", 1) not in labelled  # its answer waits
    assert ("chair", "u1", 0) in labelled
    assert ("lamp", "u2", 0) not in labelled  # it was clicked, after the window
    assert ("lamp", "u1", 0) not in labelled  # u1 had it before, and histories have an item once


EXPLORED = {"propensities": [0.5] * 3, "candidate_ids": ["lamp", "desk", "chair"], "temperature": 1.0}


def test_clicks_on_what_a_ranking_alone_chose_are_marked(shop: Path) -> None:
    others = EXPLORED | {"candidate_scores": [3.0, 2.0, 1.0]}
    explored = Answer("r0", START + 5, ["desk", "lamp", "chair"], PHONE, others=others)
    write_log(shop / "served", [explored], worker=2)
    known = pl.read_parquet(shop / "events.parquet").to_dicts()
    again = [event(e["user_id"], e["item_id"], e["time"], e["request_id"], e["type"]) for e in known]
    more = [event("u4", "lamp", START + 9, "r0"), event("u4", "sofa", START + 9)]
    write_events(shop / "events.parquet", [*again, *more])
    assert rows(opened(shop, negatives=False).read(), "query", BY_RANKING) == [
        ("desk", "wood", False),  # of before
        ("desk", "Light", True),
        ("lamp", "Light", False),
    ]
    found = opened(shop, HISTORY, negatives=False, before_weight=0.0).read()
    assert rows(found, "group", BY_RANKING) == [
        ("desk", "u1", True),
        ("desk", "u1", True),
        ("chair", "u2", True),
        ("lamp", "u2", True),
        ("lamp", "u3", True),  # its answer is not in the log
        ("sofa", "u3", True),
        ("lamp", "u4", False),
        ("sofa", "u4", False),
    ]
    assert BY_RANKING not in opened(shop).read().pairs.columns  # labels are judged wherever an item was


@pytest.mark.parametrize(("elsewhere", "share"), [(True, 0.0), (False, 1.0)])
def test_a_data_set_says_how_much_of_test_a_ranking_alone_chose(
    tmp_path: Path, elsewhere: bool, share: float
) -> None:
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "loop.toml").write_text(LOOP)
    write_log(tmp_path / "served", [Answer(f"r{n}", START + n, ["lamp", "desk"]) for n in range(240)])
    events = [
        event(f"u{n}", item, START + 300 + n, f"r{n}" if n % 2 or not elsewhere else "")
        for n in range(240)
        for item in ("lamp", "desk", "sofa")
    ]
    write_events(tmp_path / "events.parquet", [*events, event("u999", "chair", START + 2 * DAY)])
    found = prepare(read_experiment(tmp_path / "loop.toml"), tmp_path, tmp_path / "cache")
    assert found.report["by_ranking"] == share
    assert BY_RANKING not in found.pairs.columns
    left_out = [count for why, count in found.report["dropped"].items() if "a ranking alone" in why]
    assert left_out == ([240] if elsewhere else [])
    assert found.report["parts"]["test"] == (120 if elsewhere else 240)


def test_without_a_positive_event_the_error_names_the_types(shop: Path) -> None:
    disliked = event("u2", "chair", START + 2 * HOUR, "r2", "dislike")
    write_events(shop / "events.parquet", [disliked, event("u2", "chair", START + 30 * HOUR, "r2")])
    with pytest.raises(DataError, match=r"no positive event follows a logged .*\[events\] types"):
        opened(shop).read()


def test_the_url_of_the_store_is_not_on_a_command_line(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> CompletedProcess[str]:
        given.extend([command, env["TWINSPIRE_EVENTS"]])
        return CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("twinspire.train.data.sources.service.subprocess.run", run)
    url = "postgresql://shop:hunter2@db/shop"
    opened(shop, events=url)
    command, handed = given
    assert handed == url and not [word for word in command if "hunter2" in word]


def test_events_are_read_from_the_store_itself(shop: Path) -> None:
    from twinspire.protos import events_pb2 as wire
    from twinspire.serving.events.store import EventStore

    url = f"sqlite:///{shop / 'events.db'}"
    with closing(EventStore.open(url)) as store:
        clicked = wire.Event(user="u1", item_id="chair", type="click", time=START + 9, request_id="r1")
        store.record([wire.RecordRequest(events=[clicked])])
    source = opened(shop, events=url, before_weight=0.0)
    found = rows(source.read(), "label", "query")
    assert ("chair", 1, "Light") in found and ("desk", 0, "Light") in found
    assert isinstance(source, ServiceSource)
    copy = source.events
    assert copy.is_file()
    del source
    assert not copy.exists()  # it has the keys of users
    with pytest.raises(ConfigError, match=r"data\.events: .*none\.db"):
        opened(shop, events=f"sqlite:///{shop / 'none.db'}")


def test_bad_logs_and_settings_are_refused_with_their_place(shop: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: expected files of a served log"):
        opened(shop, log="nowhere").identity()
    with pytest.raises(DataError, match=r"no\.parquet"):
        opened(shop, events="no.parquet")
    with pytest.raises(DataError, match="and 3 wait"):
        opened(shop, window_hours=1000.0).read()
    (path,) = (shop / "served").glob("*/*-1.parquet")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read"):
        opened(shop).identity()
    with pytest.raises(ValueError, match="since: expected"):
        ServiceData(kind="service", log="", events="", before="x", since="yesterday")
    with pytest.raises(ValueError, match="items: expected a table"):
        ServiceData(kind="service", log="", events="")
