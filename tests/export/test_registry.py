"""Bundles in a real registry: registered once, promoted behind gates, rolled back from the trail."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from export import registry
from protos import bundle
from protos.errors import GateRefused, MissingStage, Unavailable
from tests.stdlib import Made, tracking_at
from train.places import ROOT


@pytest.fixture
def own(made_once: Made, tmp_path: Path) -> Any:
    """`made_once` in a store of this test's own, so that it may register."""
    database = shutil.copy(made_once.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    with tracking_at(f"sqlite:///{database}") as uri:
        yield dataclasses.replace(made_once, uri=uri)


def altered(folder: Path, parent: Path, **fields: Any) -> Path:
    """The same bundle with a manifest that says something else, sealed anew."""
    manifest = dataclasses.replace(bundle.read(folder), files={}, bundle_version="", **fields)

    def fill(draft: Path) -> None:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        (draft / bundle.MANIFEST).unlink()

    return bundle.write(parent, manifest, fill)


def test_a_champion_answers_in_any_process(own: Made, tmp_path: Path) -> None:
    version, reused = registry.register(own.folder)
    assert not reused
    assert registry.register(own.folder) == (version, True)
    move, promoted = registry.promote("stdlib")
    assert move is not None
    assert (move.action, move.before, move.after) == ("promote", "", str(version.version))
    assert promoted.version == version.version
    assert registry.promote("stdlib")[0] is None
    code = (
        "import json, mlflow\n"
        "model = mlflow.pyfunc.load_model('models:/stdlib@champion')\n"
        "print(json.dumps(model.predict(['parse command line arguments'], params={'k': 3})))\n"
    )
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    (hits,) = json.loads(done.stdout.splitlines()[-1])
    assert len(hits) == 3
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]
    assert str(ROOT) not in done.stdout


def test_a_bundle_below_its_recall_target_is_not_promoted(own: Made, tmp_path: Path) -> None:
    ann = {**bundle.read(own.folder).ann, "ann_recall_at_10": 0.5}
    registry.register(altered(own.folder, tmp_path / "bundles", ann=ann))
    with pytest.raises(GateRefused, match=r"ann_recall_at_10 0.5000 is below 0.98"):
        registry.promote("stdlib")
    assert registry.by_alias("stdlib", registry.CHAMPION) is None


def test_a_bundle_out_of_parity_is_not_promoted(own: Made, tmp_path: Path) -> None:
    parity = {"query": {"max_abs_diff": 0.1, "tolerance": 1e-5, "records": 1}}
    registry.register(altered(own.folder, tmp_path / "bundles", parity=parity))
    with pytest.raises(GateRefused, match=r"parity of the query tower: max_abs_diff 1.00e-01 is above"):
        registry.promote("stdlib")


def test_a_rollback_goes_back_one_champion_at_a_time(own: Made, tmp_path: Path) -> None:
    folders = [altered(own.folder, tmp_path / "bundles", git_commit=name) for name in "abc"]
    for folder in folders:
        registry.register(folder)
        registry.promote("stdlib")
    assert registry.rollback("stdlib").after == "2"
    assert registry.rollback("stdlib").after == "1"
    with pytest.raises(MissingStage, match="no champion before this one"):
        registry.rollback("stdlib")
    champion = registry.by_alias("stdlib", registry.CHAMPION)
    assert champion is not None
    assert registry.manifest_of(champion).git_commit == "a"
    moves = [(move.action, move.before, move.after) for move in registry.trail("stdlib")]
    assert moves == [
        ("promote", "", "1"),
        ("promote", "1", "2"),
        ("promote", "2", "3"),
        ("rollback", "3", "2"),
        ("rollback", "2", "1"),
    ]


def test_nothing_registered_is_said_with_the_command_that_comes_first(store: str) -> None:
    assert mlflow.get_tracking_uri() == store
    with pytest.raises(MissingStage, match="make register"):
        registry.promote("stdlib")


def test_a_registry_that_does_not_answer_is_not_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking_at("http://127.0.0.1:9"), pytest.raises(Unavailable, match="MLflow does not answer"):
        registry.promote("stdlib")
