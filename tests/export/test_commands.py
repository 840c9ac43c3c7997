"""The command line of export: one JSON document on stdout, or an error that names the missing step."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run

from tests.helpers import altered
from tests.helpers.limited import files_limited_to
from tests.helpers.stdlib import Made, experiment_at, tracking_copy, write_toml
from twinspire.export import bundles, commands
from twinspire.export.__main__ import main
from twinspire.export.bundles import BUNDLES
from twinspire.export.encoding import encoding
from twinspire.export.release.promote import challenger_data
from twinspire.protos import bundle
from twinspire.protos.errors import BundleTooNew, MissingStage
from twinspire.train.evaluation import lexical_choice
from twinspire.train.training.tracking import find_run, tracked_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command; gives its exit code, what it printed, and what it said beside."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return call


@pytest.fixture
def document(run: Any) -> Any:
    """Run a command with `--json`; gives its document."""

    def call(*arguments: str | Path) -> Any:
        code, output, said = run(*arguments, "--json")
        assert code == 0, said
        assert output.count("\n") == 1
        return json.loads(output)

    return call


@pytest.fixture
def own(made_once: Made, tmp_path: Path) -> Iterator[Made]:
    """`made_once`, its bundle the newest, with MLflow pointing at a copy of its store to write to."""
    (made_once.folder / bundle.MANIFEST).touch()
    with tracking_copy(made_once, tmp_path):
        yield made_once


@pytest.fixture
def untrained(store: str, stdlib: Path, tmp_path: Path) -> Path:
    """The TOML of an experiment that has its data and nothing else."""
    path = write_toml(stdlib, tmp_path / "a.toml", "never-run")
    experiment_at(path)
    return path


def test_a_bundle_is_one_document(document: Any, own: Made) -> None:
    found = document("bundle", "--config", own.config)
    manifest = bundle.read(own.folder)
    assert found["reused"]
    assert found["bundle"] == str(own.folder)
    assert found["bundle_version"] == manifest.bundle_version
    assert (found["items"], found["dimension"]) == (manifest.count, 64)
    assert found["quality"]["recall_at_10"] == manifest.quality["recall_at_10"]
    assert found["ann"]["ann_recall_at_10"] == manifest.ann["ann_recall_at_10"]
    assert found["latency"]["metrics"] == manifest.latency["metrics"]
    assert document("bundle", "--config", own.config, "--run", own.run.info.run_id) == found


def test_the_run_of_these_settings_is_exported_not_a_newer_one(document: Any, own: Made) -> None:
    with tracked_run(own.experiment.name, "fit", "of other settings") as newer:
        pass
    newest = find_run(own.experiment.name, "fit")
    assert newest is not None
    assert newest.info.run_id == newer
    assert document("bundle", "--config", own.config)["run_id"] == own.run.info.run_id


def test_a_newest_run_of_other_settings_is_named(
    run: Any, own: Made, stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = []

    def build(experiment: Any, dataset: Any, run: Run, *_: Any) -> Any:
        exported.append(run.info.run_id)
        return own.folder, True

    monkeypatch.setattr(commands, "build_bundle", build)
    changed: Any = {"training": {"epochs": 4}}
    config = write_toml(stdlib, tmp_path / "a.toml", own.experiment.name, **changed)
    code, _, said = run("bundle", "--config", config)
    assert (code, exported) == (0, [own.run.info.run_id])
    told = f"the newest run ({own.run.info.run_id}), whose settings, data or code differ from those of now"
    assert told in said
    assert run("bundle", "--config", config, "--run", own.run.info.run_id)[2] == ""
    assert run("bundle", "--config", own.config)[2] == ""


def test_a_reused_bundle_is_the_newest_for_the_commands_after(
    document: Any, own: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "BUNDLES", tmp_path / "bundles")
    mine = shutil.copytree(own.folder, bundles.BUNDLES / own.folder.name)
    newer = shutil.copytree(own.folder, bundles.BUNDLES / "newer")
    os.utime(mine / bundle.MANIFEST, (1000, 1000))
    assert bundles.find_bundle(own.experiment, None)[0] == newer
    before = bundle.read(mine)
    assert document("bundle", "--config", own.config)["bundle"] == str(mine)
    os.utime(newer / bundle.MANIFEST, (1000, 1000))
    os.utime(mine / bundle.MANIFEST, (999, 999))
    assert document("bundle", "--config", own.config)["reused"]
    assert bundles.find_bundle(own.experiment, None) == (mine, before)


def test_a_newer_manifest_that_cannot_be_read_hides_no_bundle(
    own: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "BUNDLES", tmp_path / "bundles")
    other = bundles.BUNDLES / "other"
    other.mkdir(parents=True)
    with pytest.raises(MissingStage, match="there is no bundle yet"):
        bundles.find_bundle(own.experiment, None)
    (other / bundle.MANIFEST).write_text(json.dumps({"schema_version": 99_999}))
    with pytest.raises(MissingStage, match="there is no bundle that can be read") as raised:
        bundles.find_bundle(own.experiment, None)
    assert isinstance(raised.value.__cause__, BundleTooNew)
    mine = shutil.copytree(own.folder, bundles.BUNDLES / own.folder.name)
    os.utime(mine / bundle.MANIFEST, (1000, 1000))
    assert bundles.find_bundle(own.experiment, None)[0] == mine


def test_evaluate_gives_the_metrics_of_the_manifest(
    document: Any, own: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lexical_choice, "per_query", None
    )  # choosing k1 and b would need it; the run has done that
    found = document("evaluate", "--config", own.config, "--bundle", own.folder)
    expected = bundle.read(own.folder).quality
    for name in ("recall_at_10", "ndcg_at_10", "bm25_mrr_at_10", "verdict", "queries"):
        assert found[name] == expected[name]
    monkeypatch.setattr(encoding, "encode_into", None)  # the items are encoded by now
    assert document("evaluate", "--config", own.config, "--bundle", own.folder) == found


def test_from_bundle_to_champion_and_back(run: Any, document: Any, own: Made) -> None:
    config = ("--config", own.config)
    first = document("register", *config)
    assert (first["model"], first["alias"], first["reused"]) == ("models:/stdlib/1", "challenger", False)
    assert document("register", *config) == {**first, "reused": True}
    assert document("history", *config)["records"] == []
    moved = document("promote", *config, "--reason", "the first")
    assert (moved["model"], moved["alias"]) == ("models:/stdlib/1", "champion")
    assert (moved["move"]["action"], moved["move"]["before"], moved["move"]["after"]) == ("promote", "", "1")
    assert moved["decision"]["accepted"]
    assert {gate["name"] for gate in moved["move"]["gates"]} >= {"parity", "index_recall", "quality"}
    assert document("promote", *config)["move"] is None
    (record,) = document("history", *config)["records"]
    assert record == {**moved["move"], "run_id": moved["run_id"], "outcome": "done", "moved": True}
    code, output, _ = run("history", *config)
    assert code == 0
    for part in ("promote", "none", "the first", "champion: 1"):
        assert part in output
    code, output, _ = run("promote", *config)
    assert (code, output) == (0, "models:/stdlib/1 is champion already\n")
    code, output, said = run("rollback", *config)
    assert (code, output) == (1, "")
    assert "stdlib: there is no champion before this one to go back to" in said
    assert document("rollback", *config, "--to", "1") == {
        "model": "models:/stdlib/1",
        "alias": "champion",
        "move": None,
    }


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("promote", "--force"), "promote --force: say why with --reason"),
        (("promote", "--force", "--reason", " "), "promote --force: say why with --reason"),
        (("rollback", "--reason", "x" * 1001), "argument --reason: expected up to 1000 printable characters"),
        (("promote", "--reason", "a\udce9"), "argument --reason: expected up to 1000 printable characters"),
    ],
)
def test_an_invalid_reason_is_a_usage_error(
    run: Any, capsys: Capture, arguments: tuple[str, ...], first: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert first in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("command", "first"),
    [
        ("bundle", "nothing is trained yet; `make train` comes first"),
        ("register", "there is no bundle yet; `make export` comes first"),
        ("promote", "no version is challenger; `make register` makes one"),
        ("rollback", "there is no champion before this one to go back to"),
    ],
)
def test_a_missing_stage_is_named_with_its_command(
    run: Any, untrained: Path, command: str, first: str
) -> None:
    code, output, said = run(command, "--config", untrained, "--json")
    assert (code, output) == (1, "")
    assert said == f"error: never-run: {first}"


def test_a_missing_run_or_bundle_is_named(run: Any, untrained: Path, tmp_path: Path) -> None:
    code, _, said = run("bundle", "--config", untrained, "--run", "0123456789")
    assert (code, said.startswith("error: run 0123456789: not known to")) == (1, True)
    code, _, said = run("register", "--config", untrained, "--bundle", tmp_path)
    assert code == 1
    assert "manifest.json: missing" in said


def test_a_bundle_of_another_split_is_not_evaluated(
    run: Any, own: Made, stdlib: Path, tmp_path: Path
) -> None:
    changed: Any = {"split": {"seed": 5}}
    config = write_toml(stdlib, tmp_path / "a.toml", **changed)
    code, _, said = run("evaluate", "--config", config, "--bundle", own.folder)
    assert code == 1
    assert "does not fit the data set: the splits differ; `make export` makes a new one" in said


def test_a_challenger_is_not_evaluated_on_data_that_have_changed_since(
    own: Made, stdlib: Path, tmp_path: Path
) -> None:
    challenger = altered.side("1", own.folder)
    assert challenger_data(own.experiment, challenger, lambda: own.dataset).items
    smaller: Any = {"data": {"max_items": 100}}
    experiment, dataset = experiment_at(write_toml(stdlib, tmp_path / "b.toml", **smaller))
    with pytest.raises(
        MissingStage, match=r"version 1 was made on another split of the data .*register again"
    ):
        challenger_data(experiment, challenger, lambda: dataset)


def test_a_full_disk_is_reported_and_leaves_no_files(
    run: Any, own: Made, stdlib: Path, tmp_path: Path
) -> None:
    changed: Any = {"export": {"iterations": 19}}  # another bundle than the one that is there
    config = write_toml(stdlib, tmp_path / "a.toml", own.experiment.name, **changed)
    before = sorted(BUNDLES.iterdir())
    with files_limited_to(50_000):
        code, _, said = run("bundle", "--config", config)
    assert (code, "Traceback" in said) == (1, False)
    assert "its model cannot be downloaded to" in said
    assert "the disk is full, or the artifact store fails (" in said
    assert sorted(BUNDLES.iterdir()) == before
