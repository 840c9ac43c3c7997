"""Releases on PostgreSQL behind an MLflow server over HTTP, and a release that is killed.

`test_server.py` has one on SQLite.
"""

import functools
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.helpers import releases
from tests.helpers.mlflow_servers import mlflow_server, model_server
from tests.helpers.postgres import postgres, without_postgres
from tests.helpers.releases import HELD, NAME, REFUSED, Decide, aliased, make_challenger
from tests.helpers.stdlib import tracking_at
from tests.helpers.waiting import wait_until
from tests.helpers.warm import WarmPython
from twinspire.export.release import promote as release
from twinspire.export.release import registry
from twinspire.export.release.commands import audit_log_of, roll_back
from twinspire.export.release.registry import CHAMPION
from twinspire.protos.errors import GateRefused

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:mlflow"), pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, warm_fetches: None) -> Iterator[str]:
    """The URL of a server that holds two versions, which MLflow points at."""
    if without_postgres():
        pytest.skip(without_postgres())
    folder = tmp_path_factory.mktemp("postgresql")
    with ExitStack() as stack:
        url = stack.enter_context(mlflow_server(folder, stack.enter_context(postgres())))
        stack.enter_context(tracking_at(url))
        releases.register(folder / "bundles", 1)
        releases.register_again(1)
        yield url


@pytest.fixture
def clean(server: str) -> str:
    """The server, without a champion; what was on record before stays."""
    mlflow.MlflowClient().delete_registered_model_alias(NAME, CHAMPION)
    return server


def test_from_challenger_to_champion_and_back(
    clean: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "fetch", functools.cache(registry.fetch))  # a process for each version
    client, experiment = mlflow.MlflowClient(), releases.small_experiment(tmp_path)
    before = len(audit_log_of(NAME)["records"])

    def promote(version: int, gates: Any, **others: Any) -> dict[str, Any]:
        make_challenger(version)
        return release.promote(experiment, releases.no_data, compare=Decide(gates), **others)

    done = promote(1, (HELD,))
    assert str(client.get_run(done["run_id"]).info.artifact_uri).startswith("mlflow-artifacts:/")
    held = {each.path for each in client.list_artifacts(done["run_id"], "release")}
    assert {"release/decision.json", "release/decision.md"} <= held
    with pytest.raises(GateRefused, match=r"quality -0\.05, bound -0\.01"):
        promote(2, (HELD, REFUSED))
    assert aliased("champion") == "1"
    reason = "größer – “gemessen” 検索 100 %"
    assert promote(2, (HELD, REFUSED), force=True, reason=reason)["model"] == f"models:/{NAME}/2"
    assert roll_back(NAME).after == "1"  # type: ignore[union-attr]
    found = audit_log_of(NAME)
    records = found["records"][before:]
    assert [(each["action"], each["moved"]) for each in records] == [
        ("promote", True),
        ("refuse", False),
        ("force", True),
        ("rollback", True),
    ]
    assert records[2]["reason"] == reason
    assert (found["intact"], found["champion"]) == (True, "1")
    assert {model.name for model in client.search_registered_models()} == {NAME}
    assert str(client.get_model_version(NAME, "1").description).startswith("# tiny\n")


AT_ONCE = """
from types import SimpleNamespace
import sys
from pathlib import Path
from twinspire.export.release import promote as release
from twinspire.export.release.gate import Decision
from twinspire.protos.errors import TwinspireError
from tests.helpers import releases
from twinspire.train.training.tracking import connect

def wait():
    print("compared", flush=True)
    sys.stdin.readline()

connect()
# `Decide` reads neither bundles nor reports. The names that are replaced must exist.
assert callable(release.fetch) and callable(release.write_report) and callable(Decision.document)
release.fetch = lambda name, number: (Path(), SimpleNamespace(quality={}))
release.write_report = lambda decision, folder: None
Decision.document = lambda decision: {}
experiment = releases.small_experiment(Path(sys.argv[1]))
try:
    release.promote(experiment, releases.no_data, compare=releases.Decide(meanwhile=wait))
except TwinspireError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(clean: str, tmp_path: Path) -> None:
    before = len(audit_log_of(NAME)["records"])
    make_challenger(2)
    processes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        processes.append(WarmPython("-c", AT_ONCE, str(tmp_path / name)))
    for process in processes:
        assert process.stdout.readline() == "compared\n", process.communicate(timeout=60)[1]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert sorted(code for _, code in ended) == [0, 1], ended
    (said,) = (said for said, code in ended if code)
    overtaken = "tiny: version 2 does not become champion: version 2 was made champion meanwhile"
    assert f"Unavailable: {overtaken}, in place of none; try again" in said
    assert aliased("champion") == "2"
    found = audit_log_of(NAME)
    assert [(each["action"], each["before"], each["after"]) for each in found["records"][before:]] == [
        ("promote", "", "2"),
        ("refuse", "2", "2"),
    ]
    assert found["intact"]


def test_the_champion_answers_over_http_from_a_fresh_process_elsewhere(clean: str, tmp_path: Path) -> None:
    mlflow.MlflowClient().set_registered_model_alias(NAME, CHAMPION, "2")
    asked = {"inputs": ["bavuti xelike mopy", "tovuba"], "params": {"k": 3}}
    with model_server(tmp_path, "models:/tiny@champion", clean) as url:
        post = urllib.request.Request(
            f"{url}/invocations", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(post, timeout=60) as answer:
            found = json.load(answer)["predictions"]
    assert [len(hits) for hits in found] == [3, 3]
    assert found[0][0].keys() == {"id", "score", "fields", "basis", "weak"}


# Promotes a version with gates that hold, and stops when the move is on record and the alias is to move.
PROMOTE = """
from types import SimpleNamespace
import sys, time
from pathlib import Path
import mlflow
from twinspire.export.release import promote as release
from tests.helpers import releases
from twinspire.train.training.tracking import connect

def stop(*_, **__):
    print("here", flush=True)
    time.sleep(600)

connect()
mlflow.MlflowClient.set_registered_model_alias = stop
release.fetch = lambda name, number: (Path(), SimpleNamespace(quality={}))
release.write_report = lambda decision, folder: None
experiment = releases.small_experiment(Path(sys.argv[1]))
release.promote(experiment, releases.no_data, compare=releases.Decide())
"""


@pytest.fixture
def versions(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """A store with three versions, the second champion after the first, the third challenger."""
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}") as uri:
        client = mlflow.MlflowClient()
        client.create_registered_model(NAME)
        for number in ("1", "2", "3"):
            client.create_model_version(NAME, f"{tmp_path}/nothing-is-read", run_id=None)
            if number != "3":
                roll_back(NAME, number, "for the test")
        releases.make_challenger(3)
        yield uri


def test_a_rollback_waits_for_a_promotion_on_this_host_and_goes_on_when_it_is_killed(
    versions: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = WarmPython("-c", PROMOTE, str(tmp_path))
    rollback = threading.Thread(target=roll_back, args=(NAME, "1"))
    try:
        assert process.stdout.readline() == "here\n"
        rollback.start()
        wait_until(lambda: "waits for another release on this host" in caplog.text)
        assert aliased("champion") == "2"
        assert audit_log_of(NAME)["records"][-1]["outcome"] == "incomplete"
    finally:
        process.kill()
        process.communicate()
    rollback.join(60)
    assert aliased("champion") == "1"
    found = audit_log_of(NAME)
    assert (found["intact"], found["beside"]) == (True, [])
    assert [each["outcome"] for each in found["records"]] == ["done", "done", "incomplete", "done"]
    assert [each["moved"] for each in found["records"]] == [True, True, False, True]
