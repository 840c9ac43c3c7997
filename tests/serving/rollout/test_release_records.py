"""What a service reads of a model's releases in a real registry: as `export history` tells, within bounds."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest

from export.release import audit_log, lock
from protos.errors import Unavailable
from protos.mlflow_keys import STAGE
from protos.release_records import RECORD_TAG, RELEASE
from serving.rollout import release_records
from serving.rollout.registry import MlflowRegistry
from serving.rollout.release_records import line
from tests.helpers.releases import record_move, served_records
from train.training.tracking import experiment_id

pytestmark = pytest.mark.filterwarnings("ignore::Warning:mlflow")

NAME = "tiny"
HELD = {
    "name": "index_recall",
    "title": "recall of the index",
    "figure": 0.9876,
    "bound": 0.95,
    "holds": True,
    "shown_figure": "0.9876",
    "shown_bound": "≥ 0.9500",
}
FAILED = {"name": "quality", "figure": -0.05, "bound": -0.01, "holds": False, "warning": "loses to BM25"}
EVIL = '<img src=x onerror="alert(1)">\u202e\x1b[31m\x00\nnext line '
MEGABYTE = 1 << 20


@pytest.fixture
def versions(store: str) -> str:
    """The URI of a registry with three versions of a model, none of which is champion."""
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, "file:///nowhere")
    return store


def read(version: str = "1") -> dict[str, Any]:
    return MlflowRegistry().releases(NAME, version)


def test_a_model_without_releases_has_none(versions: str) -> None:
    assert read() == {"promotion": None, "records": []}
    experiment_id(NAME)  # made, and without a run
    assert read() == {"promotion": None, "records": []}


def test_the_records_are_those_of_the_history(versions: str) -> None:
    record_move(NAME, "promote", "", "1", [HELD])
    record_move(NAME, "refuse", "1", "2", [HELD, FAILED])
    record_move(NAME, "force", "1", "2", [HELD, FAILED, {"name": "parity", "figure": None}], "the shop opens")
    record_move(NAME, "rollback", "2", "1", reason="worse answers: größer als ø|[b]")
    found = read()
    assert found["records"] == served_records(NAME)
    assert [each["action"] for each in found["records"]] == ["rollback", "force", "refuse", "promote"]
    assert [each["moved"] for each in found["records"]] == [True, True, False, True]
    assert found["promotion"]["number"] == 1  # and not the rollback, which has no gates
    forced = read("2")["promotion"]
    assert (forced["number"], forced["action"], forced["reason"]) == (3, "force", "the shop opens")
    assert [gate["holds"] for gate in forced["gates"]] == [True, False, False]
    assert read("3")["promotion"] is None


def test_the_newest_are_shown_and_a_promotion_is_found_among_more(
    versions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_records, "RECORDS", 2)
    monkeypatch.setattr(release_records, "SEARCHED", 4)
    record_move(NAME, "promote", "", "1", [HELD])
    for before, after in (("1", "2"), ("2", "1"), ("1", "2")):
        record_move(NAME, "rollback", before, after, reason="to and fro")
    found = read()
    assert [each["number"] for each in found["records"]] == [4, 3]
    assert found["promotion"]["number"] == 1
    record_move(NAME, "rollback", "2", "1", reason="and once more")
    assert read()["promotion"] is None  # it is beyond those that are searched


def test_a_release_that_has_not_ended_is_under_way_or_was_interrupted(versions: str) -> None:
    record_move(NAME, "promote", "", "1")
    client = mlflow.MlflowClient()
    run_id = client.create_run(experiment_id(NAME), tags={STAGE: RELEASE}).info.run_id
    with lock.acquire(NAME, "ann@one"):
        audit_log.append(NAME, run_id, "ann@one", "promote", "1", "2")
        assert [each["outcome"] for each in read()["records"]] == ["under way", "done"]
        assert not read()["records"][0]["moved"]
        assert read()["records"] == served_records(NAME)
    assert [each["outcome"] for each in read()["records"]] == ["interrupted", "done"]
    client.set_registered_model_alias(NAME, "champion", "2")  # it was killed after it had moved the alias
    assert read("2")["promotion"]["number"] == 2
    assert read("2")["records"] == served_records(NAME)


def hostile_records() -> list[str]:
    """Texts that anybody with access to the registry may write into the tag of a run."""
    good = {"number": 2, "at": "now", "actor": "eve", "action": "promote", "before": "1", "after": "1"}
    return [
        "",
        "nonsense",
        "[" * 200_000,
        "x" * MEGABYTE,
        json.dumps({**good, "reason": "x" * MEGABYTE}),
        json.dumps({**good, "number": 2**40}),
        json.dumps({**good, "number": -1}),
        json.dumps({**good, "action": "<script>"}),
        json.dumps({**good, "gates": "all"}),
        json.dumps({**good, "moved": True}),
    ]


def test_tags_that_are_no_records_are_left_out(versions: str) -> None:
    record_move(NAME, "promote", "", "1", [HELD])
    client = mlflow.MlflowClient()
    runs = [
        client.create_run(experiment_id(NAME), tags={STAGE: RELEASE}).info.run_id for _ in hostile_records()
    ]
    with closing(sqlite3.connect(Path(versions.removeprefix("sqlite:///")))) as database, database:
        for run_id, text in zip(runs, hostile_records(), strict=True):  # MLflow itself would cut them
            database.execute(
                "insert into tags (key, value, run_uuid) values (?, ?, ?)", (RECORD_TAG, text, run_id)
            )
    found = read()
    assert [each["actor"] for each in found["records"]] == [found["promotion"]["actor"]]
    assert found["promotion"]["gates"][0]["figure"] == 0.9876


def test_hostile_texts_become_short_lines(versions: str) -> None:
    gate = {**HELD, **dict.fromkeys(("title", "shown_figure", "shown_bound", "warning"), EVIL * 10)}
    odd = {"name": ["x"], "title": {}, "figure": 10**400, "bound": True, "holds": "yes"}
    record = {
        **{"number": 1, "action": "promote", "before": EVIL, "after": "1", "reason": EVIL * 9},
        **{"at": EVIL, "actor": EVIL * 9, "gates": [odd, gate, *[{}] * 100]},
    }
    client = mlflow.MlflowClient()
    run_id = client.create_run(experiment_id(NAME), tags={STAGE: RELEASE}).info.run_id
    client.set_tag(run_id, RECORD_TAG, json.dumps(record, ensure_ascii=False))
    client.set_registered_model_alias(NAME, "champion", "1")
    (found,) = read()["records"]
    assert len(found["gates"]) == 32
    texts = [value for part in (found, *found["gates"]) for value in part.values() if isinstance(value, str)]
    assert all(text.isprintable() and len(text) <= 1000 for text in texts)
    assert found["actor"].startswith(
        '<img src=x onerror="alert(1)"> [31m next line'
    )  # text, for pages to escape
    assert len(found["actor"]) == 128
    assert found["actor"].endswith("…")
    assert found["gates"][0] == {**found["gates"][2], "holds": False}  # nothing of it is what it should be
    assert max(len(text) for text in found["gates"][1].values() if isinstance(text, str)) == 300


def test_a_line_is_cut_and_holds_nothing_that_moves_the_cursor() -> None:
    assert line("a\tb\r\nc\u2028d\u202ee", 99) == "a b c d e"
    assert line("äöü", 3) == "äöü"
    assert line("äöüß", 3) == "äö…"
    assert line("\ud800x", 9) == "x"
    assert line("x" * MEGABYTE, 5) == "xxxx…"


def test_a_registry_that_does_not_answer_says_so(versions: str) -> None:
    with closing(sqlite3.connect(Path(versions.removeprefix("sqlite:///")))) as database, database:
        database.execute("drop table runs")
    experiment_id(NAME)
    with pytest.raises(Unavailable, match=f"{NAME}: the registry does not answer"):
        read()
