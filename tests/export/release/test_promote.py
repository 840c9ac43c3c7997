"""Promotion behind gates, and rollback: what moves, what does not, and what is on record."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.helpers import releases
from tests.helpers.releases import HELD, NAME, REFUSED, Decide, aliased, make_challenger
from tests.helpers.stdlib import tracking_at
from twinspire.export.release import audit_log, registry
from twinspire.export.release import promote as release
from twinspire.export.release.commands import audit_log_of, roll_back
from twinspire.export.release.gate import ComparedVersion, Decision
from twinspire.protos.errors import GateRefused, MissingStage, TwinspireError, Unavailable
from twinspire.train.config import Experiment

ACCEPT = Decide()

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:mlflow"), pytest.mark.usefixtures("warm_fetches")]


@pytest.fixture(scope="module")
def registered(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four registered versions and no champion."""
    folder = tmp_path_factory.mktemp("registered")
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"):
        releases.register(folder / "bundles", 2)
        for number in (1, 2):
            releases.register_again(number)
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def fetched(registered: Path, warm_fetches: None) -> dict[str, Any]:
    """What fetching each version gives; it takes a process, so it is done once for all tests."""
    with tracking_at(f"sqlite:///{registered}"):
        found = {number: registry.fetch(NAME, number) for number in ("1", "2")}
    return found | {"3": found["1"], "4": found["2"]}


@pytest.fixture
def versions(registered: Path, tmp_path: Path) -> Iterator[str]:
    """The URI of a copy of that store, of this test's own, which MLflow points at."""
    with tracking_at(f"sqlite:///{shutil.copy(registered, tmp_path / 'mlflow.db')}") as uri:
        yield uri


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return releases.small_experiment(tmp_path)


@pytest.fixture
def promote(
    experiment: Experiment,
    versions: str,
    fetched: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Promote a version, with a decision made up."""
    monkeypatch.setattr(release, "fetch", lambda _, number: fetched[number])

    def call(version: int, decide: Decide = ACCEPT, **others: Any) -> dict[str, Any]:
        make_challenger(version)
        return release.promote(experiment, releases.no_data, compare=decide, **others)

    return call


def moves() -> list[tuple[str, str, str]]:
    return [(e["action"], e["before"], e["after"]) for e in audit_log_of(NAME)["records"]]


def test_what_is_accepted_moves_and_its_run_holds_record_report_and_figures(promote: Any) -> None:
    done = promote(1)
    assert (done["model"], done["move"]["action"], done["move"]["before"]) == (
        f"models:/{NAME}/1",
        "promote",
        "",
    )
    assert (aliased("champion"), aliased("challenger")) == ("1", "")
    run = mlflow.get_run(done["run_id"])
    assert (run.info.status, run.data.tags["twinspire.stage"]) == ("FINISHED", "release")
    assert run.data.metrics["gates/parity"] == HELD.figure
    assert run.data.metrics["gates/parity_bound"] == HELD.bound
    held = {each.path for each in mlflow.MlflowClient().list_artifacts(done["run_id"], "release")}
    assert {"release/decision.json", "release/decision.md", "release/decision.html"} <= held
    record = json.loads(run.data.tags["twinspire.move"])
    assert record["gates"] == [
        {
            "name": "parity",
            "figure": 1.3e-7,
            "bound": 1e-5,
            "holds": True,
            "title": "parity of torch and ONNX Runtime",
            "shown_figure": "1.3e-07",
            "shown_bound": "≤ 1.0e-05",
        }
    ]
    assert promote(1)["move"] is None
    assert moves() == [("promote", "", "1")]


def test_what_is_refused_stays_and_is_on_record(promote: Any) -> None:
    promote(1)
    with pytest.raises(GateRefused) as refused:
        promote(2, Decide((HELD, REFUSED)))
    for part in (
        "tiny: version 2 is not promoted: quality -0.05, bound -0.01: nDCG@10 is worse",
        "report: run ",
    ):
        assert part in str(refused.value)
    assert "parity" not in str(refused.value)
    assert aliased("champion") == "1"
    last = audit_log_of(NAME)["records"][-1]
    assert (last["action"], last["before"], last["after"]) == ("refuse", "1", "2")
    assert (last["outcome"], last["moved"]) == ("done", False)
    assert [gate["holds"] for gate in last["gates"]] == [True, False]


def test_force_moves_in_spite_of_gates_and_says_so(promote: Any) -> None:
    done = promote(1, Decide((REFUSED,)), force=True, reason="the split was wrong")
    assert (done["move"]["action"], done["move"]["reason"]) == ("force", "the split was wrong")
    assert aliased("champion") == "1"
    assert promote(2, force=True, reason="not needed")["move"]["action"] == "promote"  # all gates hold


@pytest.mark.exhaustive
def test_a_champion_that_cannot_be_had_yields_to_force_alone(
    promote: Any, fetched: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(1)

    def fetch(name: str, number: str) -> Any:
        return fetched[number] if number in fetched else registry.fetch(name, number)

    monkeypatch.setattr(release, "fetch", fetch)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", str(empty_version()))
    with pytest.raises(TwinspireError, match="tiny: version 5 cannot be downloaded"):
        promote(2)
    assert aliased("champion") == "5"
    done = promote(2, force=True, reason="its files are gone")
    assert (done["decision"]["champion"], done["move"]["before"], done["move"]["after"]) == (None, "5", "2")
    assert done["move"]["action"] == "force"  # though all gates held: the champion's comparison is missing


def empty_version() -> int:
    """A version that holds no bundle."""
    made = mlflow.MlflowClient().create_model_version(NAME, "file:///nowhere", None)
    return int(made.version)


def test_who_was_overtaken_is_told_by_which_version(promote: Any) -> None:
    promote(1)
    make_challenger(3)
    with pytest.raises(Unavailable) as raised:
        promote(2, Decide(meanwhile=lambda: promote(3)))
    assert "version 2 does not become champion: version 3 was made champion meanwhile, in place of 1" in str(
        raised.value
    )
    assert aliased("champion") == "3"
    last = audit_log_of(NAME)["records"][-1]
    assert (last["action"], last["before"], last["after"]) == ("refuse", "3", "2")
    assert last["reason"].startswith("version 3 was made champion meanwhile")


def test_another_challenger_or_a_champion_moved_by_hand_stops_it_too(promote: Any) -> None:
    with pytest.raises(Unavailable, match=r"version 3, of 2.*Z, became challenger meanwhile"):
        promote(2, Decide(meanwhile=lambda: make_challenger(3)))
    client = mlflow.MlflowClient()

    def by_hand() -> None:
        client.set_registered_model_alias(NAME, "champion", "4")

    with pytest.raises(Unavailable, match="version 4 was made champion meanwhile"):
        promote(2, Decide(meanwhile=by_hand))
    assert audit_log_of(NAME)["beside"] == ["before record 2: from none to 4"]


def test_a_challenger_that_became_champion_waits_no_longer(promote: Any, experiment: Experiment) -> None:
    promote(1)
    again = release.promote(experiment, releases.no_data, compare=ACCEPT)
    assert (again["model"], again["move"]) == (f"models:/{NAME}/1", None)
    make_challenger(1)  # as a process that died in between has left it
    assert release.promote(experiment, releases.no_data, compare=ACCEPT)["move"] is None
    assert aliased("challenger") == ""
    promote(2)
    make_challenger(3)
    roll_back(NAME)
    assert (aliased("champion"), aliased("challenger")) == ("1", "3")
    roll_back(NAME, "3", "it is good")
    assert (aliased("champion"), aliased("challenger")) == ("3", "")


def test_the_warnings_of_the_training_run_are_on_record_and_on_the_page(promote: Any) -> None:
    untrained = "the untrained towers were kept"
    long = [untrained, *(f"{n}" * 500 for n in range(9))]

    def compare(challenger: ComparedVersion, *_: Any) -> Decision:
        quality = {**challenger.manifest.quality, "warnings": long}
        doubted = dataclasses.replace(challenger.manifest, quality=quality)
        return Decision(dataclasses.replace(challenger, manifest=doubted), None, (HELD,) * 11, {})

    done = promote(1, compare)
    kept = audit_log_of(NAME)["records"][-1]["warnings"]
    assert [*kept[:2]] == [untrained, "0" * 300]
    assert len(kept) == 8
    report = mlflow.artifacts.load_text(f"runs:/{done['run_id']}/release/decision.html")
    assert f"<strong>Warning.</strong> {untrained}." in report


def test_a_rollback_goes_back_one_champion_at_a_time(promote: Any) -> None:
    for version in (1, 2, 3):
        promote(version)
    for expected in ("2", "1"):
        move = roll_back(NAME)
        assert move is not None
        assert move.after == expected
    with pytest.raises(MissingStage, match="no champion before this one"):
        roll_back(NAME)
    assert aliased("champion") == "1"
    assert moves()[-2:] == [("rollback", "3", "2"), ("rollback", "2", "1")]
    found = audit_log_of(NAME)
    assert (found["intact"], found["champion"], found["beside"]) == (True, "1", [])


def test_a_rollback_goes_to_the_version_that_is_named(promote: Any) -> None:
    for version in (1, 2, 3):
        promote(version)
    assert roll_back(NAME, "3") is None
    move = roll_back(NAME, "1", "2 was no better")
    assert move is not None
    assert (move.before, move.after, move.reason) == ("3", "1", "2 was no better")
    with pytest.raises(GateRefused, match="version 4 never was champion"):
        roll_back(NAME, "4")
    for absent in ("17", "one", "-1"):
        with pytest.raises(MissingStage, match=f"there is no version {absent}"):
            roll_back(NAME, absent, "why not")
    move = roll_back(NAME, "4", "tested by hand")
    assert move is not None
    assert aliased("champion") == "4"


def test_a_rollback_to_a_deleted_version_is_refused(promote: Any) -> None:
    for version in (1, 2, 3):
        promote(version)
    mlflow.MlflowClient().delete_model_version(NAME, "2")
    with pytest.raises(MissingStage, match="no version 2 any more to go back to; TO=version names another"):
        roll_back(NAME)
    mlflow.MlflowClient().delete_model_version(NAME, "3")  # and the alias with it
    move = roll_back(NAME, "1")
    assert move is not None
    assert (move.before, aliased("champion")) == ("", "1")


def test_a_champion_that_changes_after_the_record_was_written_is_not_overwritten(
    promote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(1)
    promote(2)
    append = audit_log.append

    def overtaken(*arguments: Any) -> Any:
        record = append(*arguments)
        mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", "4")
        return record

    monkeypatch.setattr(audit_log, "append", overtaken)
    what = "version 4 was made champion meanwhile, in place of 2"
    with pytest.raises(Unavailable, match=f"version 1 does not become champion: {what}; try again"):
        roll_back(NAME)
    assert aliased("champion") == "4"
    last = audit_log_of(NAME)["records"][-1]
    assert (last["action"], last["outcome"], last["moved"]) == ("refuse", "done", False)
    assert (last["before"], last["after"], last["reason"]) == ("4", "1", what)


def test_two_hosts_that_move_the_alias_at_the_same_moment_are_both_on_record(
    promote: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins and ends between the check and the move of the first; its cache is another one."""
    promote(1)
    promote(2)
    move = mlflow.MlflowClient.set_registered_model_alias

    def on_another_host_first(*arguments: Any) -> None:
        monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", move)
        monkeypatch.setattr(audit_log, "LOCKS", tmp_path / "locks")
        roll_back(NAME, "4", "on another host")
        move(*arguments)

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", on_another_host_first)
    roll_back(NAME)
    assert moves()[2:] == [("rollback", "2", "1"), ("rollback", "2", "4")]
    found = audit_log_of(NAME)
    assert (found["champion"], found["intact"]) == ("1", True)
    assert found["beside"] == ["before record 4: from 1 to 2", "since the last record: from 4 to 1"]


def test_a_lock_file_that_cannot_be_opened_does_not_stop_a_release(
    promote: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "locks").touch()
    monkeypatch.setattr(audit_log, "LOCKS", tmp_path / "locks")
    assert promote(1)["move"]["after"] == aliased("champion") == "1"
    assert "another release on this host is not waited for" in caplog.text


def test_a_registry_that_does_not_answer_is_not_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, experiment: Experiment
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking_at("http://127.0.0.1:9"):
        for ask in (
            lambda: release.promote(experiment, releases.no_data),
            lambda: roll_back(NAME),
            lambda: audit_log_of(NAME),
            lambda: registry.register(releases.small_bundle(Path(os.environ["TWINSPIRE_CACHE"]) / "x", "a")),
        ):
            with pytest.raises(Unavailable, match="MLflow does not answer"):
                ask()
