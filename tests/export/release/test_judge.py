"""The command `judge`: explored answers scored by the challenger's bundle, and interleaved ones."""

import io
import json
import math
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
from rich.console import Console

from tests.export.served_traffic.logs import write_events, write_log
from tests.helpers.releases import NAME, register, small_experiment
from tests.helpers.tiny import item_ids, item_names, tiny_bundle, watched_bundle
from tests.helpers.tiny_towers import HISTORY, TEXT
from twinspire.export.__main__ import parser
from twinspire.export.release import judge as judging
from twinspire.export.release import registry
from twinspire.export.served_traffic.off_policy import verdict
from twinspire.export.served_traffic.served_answers import ServedFiles
from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage
from twinspire.protos.features import FeatureSpec
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.train.config import read_experiment


def explored_rows(champion: str, count: int) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Explored answers to texts and "more like this", and clicks on some of their items."""
    rng = np.random.default_rng(0)
    ids, names = item_ids(60), item_names(60)
    rows: list[dict[str, Any]] = []
    clicks: list[tuple[str, str]] = []
    for n in range(count):
        candidates = [ids[m] for m in rng.permutation(40)[:4]]
        scores = np.sort(rng.normal(0.5, 0.1, 4)).astype(np.float32)[::-1].astype(float)
        left, shown, chances = [0, 1, 2, 3], list[str](), list[float]()
        for _ in range(3):
            weights = np.exp(scores[left] / 0.6)
            place = int(rng.choice(len(left), p=weights / weights.sum()))
            chances.append(float(weights[place] / weights.sum()))
            shown.append(candidates[left.pop(place)])
        query = {"item_id": ids[50]} if n % 10 == 0 else {"text": names[n % 60]}
        rows.append(
            {
                "request_id": f"r{n}",
                "bundle": champion,
                "query": json.dumps(query if n % 10 != 1 else {}),
                "item_ids": shown,
                "propensities": chances,
                "candidate_ids": candidates,
                "candidate_scores": scores.tolist(),
                "temperature": 0.6,
            }
        )
        clicks += [(f"r{n}", item) for item in shown if rng.random() < 0.3]
    return rows, clicks


def test_explored_answers_are_scored_by_the_bundle_itself(tmp_path: Path) -> None:
    """Also by a hybrid one, whose scores are those of a search among the candidates."""
    folder = tiny_bundle(tmp_path / "bundle", 60, is_hybrid=True)
    rows, clicks = explored_rows("one", 1600)
    write_log(tmp_path / "log", rows)
    write_events(tmp_path / "events.parquet", clicks)
    files = ServedFiles(tmp_path / "log", tmp_path / "events.parquet")
    judged = judging.estimated(files, "one", folder)
    assert judged["left_out"] == 160  # without their text
    assert judged["records"] == len(rows) - 160
    assert judged["champion"][0] == pytest.approx(0.9, abs=0.1)
    assert judged["verdict"] == verdict(judged)
    assert "no estimate" not in judged["verdict"]
    assert judging.estimated(files, "another", folder)["verdict"].startswith("no estimate: the served log")
    asked = [{**rows[2], "candidate_ids": ["item-003", "gone", "item-017"]}]
    (scores,), why = judging._scores(asked, folder)
    (answer,) = Retriever.load(folder).search([Query(json.loads(rows[2]["query"])["text"])], 60)
    shown = {hit.id: hit.score for hit in answer.hits}
    assert scores is not None
    assert (why, scores[1]) == ("", None)
    assert [scores[0], scores[2]] == pytest.approx([shown["item-003"], shown["item-017"]], abs=1e-5)


def test_optional_texts_that_the_log_lacks_leave_a_record_out(tmp_path: Path) -> None:
    features: dict[str, FeatureSpec] = {"history": HISTORY, "text": TEXT}
    folder = watched_bundle(tmp_path / "bundle", 60, features)
    candidates = item_ids(60)[:3]
    queries = [{"history": candidates}, {"history": candidates, "text": ""}]
    records = [{"query": json.dumps(each), "candidate_ids": candidates} for each in queries]
    scores, why = judging._scores(records, folder)
    assert scores[0] is None
    assert scores[1] is not None
    assert why == "query.text: the text is missing from the served log"


def test_answers_later_than_the_events_are_counted_and_left_out(tmp_path: Path) -> None:
    rows, clicks = explored_rows("one", 100)
    write_log(tmp_path / "log", rows)
    write_events(tmp_path / "events.parquet", clicks[:50], later=timedelta())
    files = ServedFiles(tmp_path / "log", tmp_path / "events.parquet")
    folder = tiny_bundle(tmp_path / "bundle", 60)
    judged = judging.estimated(files, "one", folder)
    assert judged["later"] == 50
    assert judged["records"] + judged["left_out"] == 50
    write_events(tmp_path / "events.parquet", [])
    assert "later than the last event" in judging.estimated(files, "one", folder)["verdict"]


def test_the_command_shows_both_judgements(store: str, tmp_path: Path) -> None:
    register(tmp_path, 2)
    client = mlflow.MlflowClient()
    client.set_registered_model_alias(NAME, "champion", "1")
    champion, challenger = (registry.fetch(NAME, number)[1].bundle_version for number in ("1", "2"))
    rows, clicks = explored_rows(champion, 1500)
    teams = [1, 1, 1, 0] * 20
    items = {"item_ids": ["a", "b"], "teams": [0, 1], "bundle": champion, "challenger": challenger}
    rows += [{**items, "request_id": f"i{n}", "user": f"u{n}"} for n in range(80)]
    clicks += [(f"i{n}", "ab"[team]) for n, team in enumerate(teams)]
    write_log(tmp_path / "log", rows)
    write_events(tmp_path / "events.parquet", clicks)
    config = tmp_path / "tiny.toml"
    small_experiment(tmp_path)
    files = ["--served-log", str(tmp_path / "log"), "--events", str(tmp_path / "events.parquet")]
    arguments = parser().parse_args(["judge", "--config", str(config), *files])
    found = judging.command(read_experiment(config), arguments)
    assert found["model"] == f"models:/{NAME}/2"
    assert found["interleaving"]["decision"] == "better"
    assert math.isfinite(found["off_policy"]["estimates"]["cascade_dr"]["value"][0])
    json.dumps(found, allow_nan=False)
    console = Console(record=True, width=200, file=io.StringIO())
    judging.show(found, console)
    text = console.export_text()
    assert "interleaving: better: 60 users preferred the challenger, 20 the champion" in text
    assert "cascade_dr" in text


def test_a_champion_alone_is_not_judged(store: str, tmp_path: Path) -> None:
    small_experiment(tmp_path)
    flags = ["--served-log", str(tmp_path), "--events", str(tmp_path)]
    with pytest.raises(MissingStage, match="no version is champion, so there are not two to compare"):
        judging.command(
            read_experiment(tmp_path / "tiny.toml"),
            parser().parse_args(["judge", "--config", str(tmp_path / "tiny.toml"), *flags]),
        )


def test_a_challenger_on_another_server_gets_no_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = SimpleNamespace(is_remote=True)
    monkeypatch.setattr(bundle, "read_manifest", lambda folder: remote)
    files = ServedFiles(tmp_path / "log", tmp_path / "events.parquet")
    found = judging.estimated(files, "one", tmp_path)
    assert found == {"verdict": "no estimate: the challenger's index is on another server"}


def test_texts_that_the_log_lacks_are_asked_for(tmp_path: Path) -> None:
    rows, clicks = explored_rows("one", 30)
    write_log(tmp_path / "log", [{**row, "query": "{}"} for row in rows])
    write_events(tmp_path / "events.parquet", clicks)
    files = ServedFiles(tmp_path / "log", tmp_path / "events.parquet")
    found = judging.estimated(files, "one", tiny_bundle(tmp_path / "bundle", 60))["verdict"]
    assert found.startswith("no estimate: no logged query fits the challenger (query.")
    assert "serve --served-log-texts" in found
