"""A promotion that is killed while it moves the alias does not block a rollback."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from tests.helpers import releases
from tests.helpers.releases import NAME, aliased
from tests.helpers.stdlib import tracking_at
from tests.helpers.waiting import wait_until
from tests.helpers.warm import WarmPython
from twinspire.export.release.commands import audit_log_of, roll_back

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:mlflow"), pytest.mark.exhaustive]

# Promotes a version with gates that hold, and stops when the move is on record and the alias is to move.
PROMOTE = """
from types import SimpleNamespace
import sys, time
from pathlib import Path
import mlflow
from rich.console import Console
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
release.promote(experiment, releases.no_data, Console(stderr=True), compare=releases.Decide())
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
