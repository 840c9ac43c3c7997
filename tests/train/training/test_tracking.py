"""What is said to MLflow: a store made once, runs that end as they ended, and found again."""

import dataclasses
import os
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from rich.console import Console

from tests.helpers.stdlib import Made, tracking_at
from tests.helpers.warm import WarmPython
from twinspire.protos.cli import Terminated
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.protos.mlflow_keys import STAGE
from twinspire.train.paths import ROOT
from twinspire.train.training import tracking
from twinspire.train.training.run import fit
from twinspire.train.training.tracking import (
    connect,
    experiment_id,
    find_run,
    get_run,
    tracked_run,
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("named", [False, True], ids=["default", "named by the environment"])
def test_two_processes_may_make_the_store_and_experiments_at_once(tmp_path: Path, named: bool) -> None:
    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    code = (
        "import sys, mlflow\n"
        "from pathlib import Path\n"
        "from twinspire.train.training.tracking import connect, experiment_id\n"
        "uri = connect(Path(sys.argv[1]))\n"
        "print(uri, [experiment_id(f'books {n}') for n in range(20)])\n"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    if named:
        bare["MLFLOW_TRACKING_URI"] = uri
    started = [WarmPython("-c", code, str(tmp_path / "mlruns"), env=bare) for _ in range(2)]
    outputs = [(process.communicate(timeout=100), process.returncode) for process in started]
    assert [code for _, code in outputs] == [0, 0], outputs
    first, second = (output for (output, _), _ in outputs)
    assert first == second == f"{uri} {[str(n) for n in range(1, 21)]}\n"
    assert sorted(path.name for path in (tmp_path / "mlruns").iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_a_store_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = pytest.raises(Unavailable, match=r"mlflow\.db: the store cannot be made: ")
    with refused, tracking_at(f"sqlite:///{tmp_path}/file/mlflow.db"):
        pass


def test_another_store_is_honoured(store: str, tmp_path: Path) -> None:
    assert tracking.connect(tmp_path / "unused") == store
    assert not (tmp_path / "unused").exists()
    assert mlflow.get_registry_uri() == store
    with tracked_run("books", "fit", "0"):
        mlflow.log_text("kept", "note.txt")
    assert (tmp_path / "mlruns" / "artifacts" / "books").is_dir()


def test_a_store_may_be_named_from_here(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with tracking_at("sqlite:///mlflow.db"):
        with tracked_run("books", "fit", "0") as run_id:
            mlflow.log_text("kept", "note.txt")
        monkeypatch.chdir("/")
        uri = mlflow.artifacts.load_text(f"{tmp_path.as_uri()}/artifacts/books/{run_id}/artifacts/note.txt")
        assert uri == "kept"


def test_an_experiment_is_made_once(store: str) -> None:
    assert experiment_id("books") == experiment_id("books") != experiment_id("films")


def test_a_run_ends_as_it_ended(store: str) -> None:
    with tracked_run("books", "fit", "a") as finished:
        pass
    with pytest.raises(ZeroDivisionError), tracked_run("books", "fit", "b") as failed:
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt), tracked_run("books", "fit", "c") as killed:
        raise KeyboardInterrupt
    with pytest.raises(Terminated), tracked_run("books", "fit", "d") as terminated:
        raise Terminated
    assert mlflow.active_run() is None
    assert mlflow.get_run(terminated).info.status == "KILLED"
    ends = {run_id: mlflow.get_run(run_id).info.status for run_id in (finished, failed, killed)}
    assert ends == {finished: "FINISHED", failed: "FAILED", killed: "KILLED"}
    start = mlflow.get_run(killed).info.start_time
    with tracked_run("books", "fit", "c", resume=killed) as again:
        info = mlflow.get_run(again).info
        assert (info.status, info.start_time) == ("RUNNING", start)
    assert again == killed
    assert mlflow.get_run(killed).info.start_time == start
    assert mlflow.get_run(killed).info.status == "FINISHED"


def test_a_run_that_cannot_be_named_has_failed(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    monkeypatch.setattr(mlflow.MlflowClient, "update_run", refuse)
    with pytest.raises(MlflowException, match="no answer"), tracked_run("books", "fit", "a"):
        pass
    assert mlflow.active_run() is None
    assert find_run("books", "fit", "a", "FAILED") is not None


def test_a_run_says_what_made_it(store: str) -> None:
    with tracked_run("books", "fit", "a") as run_id:
        pass
    tags = mlflow.get_run(run_id).data.tags
    assert tags[STAGE] == "fit"
    assert tags[tracking.FINGERPRINT] == "a"
    assert tags["git_commit"] == tracking.git_commit()
    assert tags["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "cores" in tags["machine"]


def test_the_newest_run_that_fits_is_found(store: str) -> None:
    assert find_run("books", "fit") is None
    runs = []
    for stage, print_ in (("fit", "a"), ("fit", "b"), ("tune", "a"), ("fit", "a")):
        with tracked_run("books", stage, print_) as run_id:
            runs.append(run_id)
    with pytest.raises(KeyboardInterrupt), tracked_run("books", "fit", "b"):
        raise KeyboardInterrupt

    def found(*arguments: str) -> str | None:
        run = find_run("books", *arguments)
        return None if run is None else str(run.info.run_id)

    assert found("fit") == found("fit", "a") == runs[3]
    assert found("fit", "b") == runs[1]
    assert found("tune") == runs[2]
    assert found("fit", "c") is None
    assert found("fit", "b", "KILLED") not in (None, *runs)


def test_all_finished_runs_of_a_stage_are_counted(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking._runs, "__defaults__", (1,))  # in place of MAX_RUNS
    for number in range(2):
        with tracked_run("counted", "retrain", str(number)):
            pass
    assert tracking.finished_count("counted", "retrain") == 2


def test_a_run_that_nobody_knows_is_named(store: str) -> None:
    with pytest.raises(MissingStage, match=rf"run 0123: not known to {store}"):
        get_run("0123")


def test_outside_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = tracking.git_commit()
    monkeypatch.setattr(tracking, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tracking.git_commit() == ""
    if (ROOT / ".git").exists():
        assert len(commit.removesuffix("+changes")) == 40


def test_ctrl_c_before_anything_is_a_plain_interruption(
    made: Made, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    other = dataclasses.replace(made.experiment, name="other")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mlflow, "start_run", interrupted)
        fit(other, made.dataset, console)


def test_a_run_is_named_by_what_ran(store: str) -> None:
    with tracked_run("books", "fit", "0", title="bag") as run_id:
        pass
    assert get_run(run_id).info.run_name == f"books-bag-{run_id[:4]}"
    with tracked_run("books", "bench", "0") as bench:
        pass
    assert get_run(bench).info.run_name == f"books-bench-{bench[:4]}"
    mlflow.MlflowClient().update_run(run_id, name="mine")
    with tracked_run("books", "fit", "0", resume=run_id, title="bag"):
        pass
    assert get_run(run_id).info.run_name == "mine"


def test_an_experiment_has_a_description_and_opens_in_the_view_for_models(store: str) -> None:
    client = mlflow.MlflowClient()
    tags = client.get_experiment(experiment_id("books")).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.note.content"].startswith("The retrieval model `books`.")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite+aiosqlite:///x.db", "aiosqlite"),
        ("sqlite+nonsense:///x.db", "sqlite.nonsense"),
        ("postgresql+asyncpg://me:secret@host/db", "asyncpg"),
        ("postgresql+nonsense://me:se/secret@cr/secret@host/db", "postgresql.nonsense"),
        ("http://me:secret\u2100@host/", "NFKC"),
        ("postgresql://127.0.0.1:port/db", "port"),
        ("http://[::1", "IPv6"),
    ],
)
@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
def test_a_uri_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, uri: str, reason: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv(variable, uri)
    with pytest.raises(Unavailable, match=rf"^{variable}: .*cannot be used: .*{reason}") as caught:
        connect(tmp_path)
    assert "secret" not in str(caught.value)
    assert not [*tmp_path.iterdir()]
