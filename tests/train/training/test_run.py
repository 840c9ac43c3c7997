"""An experiment from its TOML to a finished run, in a real MLflow store, also when it is interrupted."""

import dataclasses
import io
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
import torch
from mlflow.entities import Run, RunData, RunTag
from rich.console import Console

from tests.helpers.stdlib import (
    FEW,
    PLAIN,
    QUICK,
    Made,
    experiment_at,
    started,
    tracking_copy,
    write_sections,
    write_toml,
)
from tests.helpers.waiting import wait_until
from tests.helpers.warm import WarmPython
from twinspire.export.bundle_builder import build_bundle
from twinspire.protos.bundle import read_manifest
from twinspire.protos.errors import DataError, MissingStage
from twinspire.protos.features import TextFeature
from twinspire.protos.mlflow_keys import STAGE
from twinspire.train.config import read_experiment
from twinspire.train.config.baselines import BaselinesConfig
from twinspire.train.config.losses import InBatchSoftmax
from twinspire.train.data.dataset import Dataset
from twinspire.train.data.training_data import training_data_of
from twinspire.train.evaluation.exact_search import encode, search
from twinspire.train.metrics import mean, per_query
from twinspire.train.models.defaults import from_data
from twinspire.train.paths import ROOT
from twinspire.train.training import run as training
from twinspire.train.training import trained_model
from twinspire.train.training.checkpoint import RUN_STATE
from twinspire.train.training.process import start_process
from twinspire.train.training.run import choices_of, fit
from twinspire.train.training.tracking import (
    CHOICES,
    FINGERPRINT,
    chosen_settings,
    experiment_id,
    warnings_of,
)
from twinspire.train.training.trained_model import ARTIFACTS, load_model

SECTIONS = ("query", "item", "tower", "loss", "training")  # what the towers and their training read


def test_a_run_holds_what_it_takes_to_judge_and_repeat_it(made: Made) -> None:
    run = made.run
    assert run.info.status == "FINISHED"
    assert run.data.params["tower.kind"] == "bag"
    assert run.data.params["training.epochs"] == "3"
    assert run.data.tags["split_hash"] == made.dataset.split_hash
    assert "git_commit" in run.data.tags
    for name in ("recall_at_1", "recall_at_10", "recall_at_100", "mrr_at_10", "ndcg_at_10"):
        assert 0 <= made.metrics[name] <= 1
        assert 0 <= made.metrics[f"bm25_{name}"] <= 1
    assert run.data.metrics["train/pairs_per_s"] > 0
    client = mlflow.MlflowClient()
    curve = client.get_metric_history(run.info.run_id, "validation/recall_at_10")
    assert [point.step for point in curve] == [0, 1, 2, 3, 4]  # the last one repeats the kept epoch
    assert curve[4].value == curve[int(run.data.metrics["train/best_epoch"])].value
    steps = client.get_metric_history(run.info.run_id, "train/step_loss")
    assert [point.step for point in steps] == list(range(1, len(steps) + 1))
    held = {a.path for name in (ARTIFACTS, "") for a in client.list_artifacts(run.info.run_id, name)}
    assert {"quality.html", "data.txt", "metrics.json", "dataset.json"} <= held
    assert {f"{ARTIFACTS}/towers.pt", f"{ARTIFACTS}/description.json"} <= held


def test_a_run_says_what_its_baselines_chose_and_what_is_weak_about_it(made: Made) -> None:
    run = made.run
    chosen = chosen_settings(run)
    assert {name for name in chosen if name.startswith("bm25")} == {
        f"{name}.{key}" for name in ("bm25", "bm25_full") for key in ("k1", "b", "analyzer")
    }
    assert float(chosen["bm25.k1"]) > 0
    assert chosen["bm25.analyzer"].startswith("English stems")
    cut, few = "texts are cut at max_length", "test holds"
    told = warnings_of(run)
    assert [sum(each.startswith(start) for each in told) for start in (cut, few)] == [1, 1]
    assert all(f"- {each}" in run.data.tags["mlflow.note.content"] for each in told)


def test_the_choices_of_a_run_are_those_of_its_settings_and_data(made: Made) -> None:
    of_run = made.run, made.experiment, made.dataset
    chosen, shown = choices_of(*of_run, pytest.fail), chosen_settings(made.run)
    of_bm25 = [each for name, each in chosen.items() if name.startswith("bm25")]
    assert [(str(each["k1"]), str(each["b"]), each["analyzer"]) for each in of_bm25] == [
        (shown[f"{name}.k1"], shown[f"{name}.b"], "english") for name in ("bm25", "bm25_full")
    ]
    others = dataclasses.replace(made.experiment, baselines=BaselinesConfig("words"))
    printed: list[str] = []
    assert choices_of(made.run, others, made.dataset, printed.append) == {}
    assert printed == [
        f"what run {made.run.info.run_id} has chosen for its baselines is not used: "
        "settings, data or code have changed since"
    ]
    report = {**made.dataset.report, "fingerprint": "0"}
    assert choices_of(made.run, made.experiment, dataclasses.replace(made.dataset, report=report)) == {}
    key = made.run.data.tags[FINGERPRINT]
    for text in ("", "[1]", "{", "null"):
        tags = [RunTag(FINGERPRINT, key), RunTag(CHOICES, text)]
        assert choices_of(Run(made.run.info, RunData(tags=tags)), *of_run[1:]) == {}


def test_the_start_has_a_row_of_its_own(made: Made) -> None:
    model, data, (queries, items) = started(made.config)
    rows, relevant = data.parts["test"].by_query()
    found = search(encode(model.towers[0], queries, rows), encode(model.towers[1], items))
    expected = mean(per_query(found, relevant))
    metrics = made.metrics
    assert {name: metrics[f"start_{name}"] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert any(metrics[name] != value for name, value in expected.items())


def test_a_run_names_its_data_set_with_digest_columns_and_sizes(made: Made) -> None:
    inputs = made.run.inputs
    assert inputs is not None
    (given,) = inputs.dataset_inputs
    report = made.dataset.report
    assert (given.dataset.name, given.dataset.digest) == ("stdlib", report["fingerprint"][:12])
    assert {tag.key: tag.value for tag in given.tags}["mlflow.data.context"] == "training"
    columns = [each["name"] for each in json.loads(str(given.dataset.schema))["mlflow_colspec"]]
    assert {"query", "weight"} <= {*columns}
    assert not {"part", "item_row"} & {*columns}
    sizes = json.loads(str(given.dataset.profile))
    assert sizes["num_rows"] == report["pairs"]


def test_the_stored_model_is_the_one_that_was_evaluated(made: Made) -> None:
    model = load_model(made.run)
    _, data, (queries, items) = started(made.config)
    rows, relevant = data.parts["test"].by_query()
    scores = encode(model.towers[0], queries, rows) @ encode(model.towers[1], items).T
    top = torch.topk(scores, 10).indices.numpy()
    recall = np.mean([np.isin(found, r).sum() / len(r) for found, r in zip(top, relevant, strict=True)])
    assert recall == pytest.approx(made.run.data.metrics["test/recall_at_10"], abs=1e-9)


def test_only_what_changed_is_trained_again(made_once: Made, tmp_path: Path, console: Console) -> None:
    with tracking_copy(made_once, tmp_path):
        same, reused = fit(made_once.experiment, made_once.dataset, console)
        assert reused
        assert same.info.run_id == made_once.run.info.run_id
        other = dataclasses.replace(made_once.experiment, loss=InBatchSoftmax("in_batch_softmax", 0.2))
        run, reused = fit(other, made_once.dataset, console)
        assert not reused
        assert run.data.params["loss.temperature"] == "0.2"


def test_the_key_of_a_run_covers_the_files_of_its_text_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TextFeature, "files", lambda feature: ("words.txt",))
    experiment = read_experiment(ROOT / "train/configs/pydocs.toml")
    dataset = Dataset(tmp_path, pl.DataFrame(), pl.LazyFrame(), {"fingerprint": "data"})
    with pytest.raises(DataError, match=r"words\.txt: a feature reads this file: No such file"):
        training._fingerprint(experiment, dataset)
    keys = set()
    for content in ("red", "green"):
        (tmp_path / "words.txt").write_text(content)
        keys.add(training._fingerprint(experiment, dataset))
        assert training._fingerprint(experiment, dataset) in keys
    assert len(keys) == 2


def begun_run(name: str, key: str, begun: int, status: str) -> str:
    """The id of a run of that key which has left its state behind."""
    tags = {STAGE: training.STAGE, FINGERPRINT: key}
    client = mlflow.MlflowClient()
    run_id = client.create_run(experiment_id(name), start_time=begun, tags=tags).info.run_id
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    folder = training.run_folder(run_id)
    folder.mkdir(parents=True)
    (folder / RUN_STATE).touch()
    return str(run_id)


@pytest.mark.parametrize("statuses", [("KILLED", "RUNNING"), ("FAILED", "KILLED"), ("RUNNING", "FAILED")])
def test_of_all_interrupted_runs_the_one_that_began_last_is_resumed(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statuses: tuple[str, str]
) -> None:
    monkeypatch.setattr(training, "CACHE", tmp_path)
    experiment = read_experiment(ROOT / "train/configs/pydocs.toml")
    older, newer = (begun_run(experiment.name, "a", n, each) for n, each in enumerate(statuses, 1))
    begun_run(experiment.name, "other", 3, "KILLED")
    without_state = begun_run(experiment.name, "a", 4, statuses[1])
    (training.run_folder(without_state) / RUN_STATE).unlink()
    assert training._interrupted(experiment, "a", refuse_running=True) == newer
    with training._locked(training.run_folder(newer)):
        assert training._interrupted(experiment, "a", refuse_running=False) == older
        with pytest.raises(MissingStage, match=f"run {newer}: another process is training it"):
            training._interrupted(experiment, "a", refuse_running=True)


def test_what_a_run_depends_on_is_hashed_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    def key(*_: object) -> str:
        keys.append("a")
        return "a"

    monkeypatch.setattr(training, "_fingerprint", key)
    experiment = read_experiment(ROOT / "train/configs/pydocs.toml")
    dataset = Dataset(Path(), pl.DataFrame(), pl.LazyFrame(), {"fingerprint": "data"})
    with pytest.raises(MissingStage, match="no interrupted run to resume"):
        fit(experiment, dataset, Console(file=io.StringIO()), resume=True)
    assert len(keys) == 1


def test_a_baseline_that_does_not_apply_is_named_before_the_first_epoch(
    stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, dataset = experiment_at(write_toml(stdlib, tmp_path / "a.toml"))
    asked = dataclasses.replace(experiment, baselines=BaselinesConfig(run=("ease", "bm25")))
    console = Console(file=io.StringIO(), width=200)

    class Started(Exception):
        """Training would begin."""

    def start(*_: object) -> None:
        raise Started

    monkeypatch.setattr(trained_model, "Trainer", start)
    with pytest.raises(Started):
        training._train(tmp_path, start_process(1), asked, dataset, console, resume=False)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    told = "warning: baselines.run: ease is not measured: it needs histories"
    assert told in shown
    assert "bm25 is not" not in shown


def environment(folder: Path) -> dict[str, str]:
    """Of a command whose store and cache are in a folder."""
    places = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "TWINSPIRE_CACHE": str(folder / "cache"),
    }
    return {**os.environ, **places}


def warm_command(config: Path, folder: Path, *arguments: str) -> WarmPython:
    arguments = ("fit", "--config", str(config), "--json", *arguments)
    return WarmPython("-m", "twinspire.train", *arguments, env=environment(folder))


def only_run(folder: Path) -> Run:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = (each for each in client.search_experiments() if each.name == "stdlib")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def interrupt_in_an_epoch(process: WarmPython, folder: Path) -> None:
    """Ctrl-C once the first epoch has ended, which is when the second is under way."""

    def has_ended() -> bool:
        try:
            return "train/loss" in only_run(folder).data.metrics
        except ValueError:  # no experiment, or no run yet
            return False

    wait_until(has_ended, 120)
    wait_until(lambda: [*folder.glob(f"cache/runs/*/{RUN_STATE}")])  # to resume from
    process.send_signal(signal.SIGINT)


@pytest.mark.exhaustive
@pytest.mark.timeout(400)  # three trainings
def test_an_interrupted_run_goes_on_to_the_same_result(
    stdlib: Path, empty_store: Path, tmp_path: Path
) -> None:
    changed: Any = {"training": {"epochs": 8, "batch_size": 16, "patience": 8, "threads": 2}}
    config = write_toml(stdlib, tmp_path / "a.toml", sections={**PLAIN, **QUICK}, **changed)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
    stopped = warm_command(config, broken)
    interrupt_in_an_epoch(stopped, broken)
    _, said = stopped.communicate(timeout=150)
    assert stopped.returncode == 130, said
    by_make, by_python = (
        f"make train CONFIG={config} RESUME=1",
        f"python -m twinspire.train fit --config {config} --resume",
    )
    assert f"stopped; `{by_make if os.environ.get('TWINSPIRE_MAKE') else by_python}` goes on with run" in said
    killed = only_run(broken)
    assert killed.info.status == "KILLED"
    resumed = warm_command(config, broken, "--resume")
    output, said = resumed.communicate(timeout=250)
    assert resumed.returncode == 0, said
    uninterrupted = warm_command(config, straight)
    reference, said = uninterrupted.communicate(timeout=250)
    assert uninterrupted.returncode == 0, said
    assert only_run(broken).info.run_id == killed.info.run_id
    assert only_run(broken).info.status == "FINISHED"
    assert only_run(broken).info.start_time == killed.info.start_time
    ours, theirs = json.loads(output)["metrics"], json.loads(reference)["metrics"]
    quality = [name for name in theirs if name.startswith(("recall", "mrr", "ndcg", "validation", "loss"))]
    client = mlflow.MlflowClient(f"sqlite:///{broken / 'mlflow.db'}")
    epochs = client.get_metric_history(killed.info.run_id, "train/epoch_s")
    assert ours["training_s"] > sum(point.value for point in epochs)  # in both parts
    assert {name: ours[name] for name in quality} == {name: theirs[name] for name in quality}


@pytest.mark.exhaustive
def test_a_run_under_way_is_not_taken_for_an_interrupted_one(
    stdlib: Path, empty_store: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    changed: Any = {"training": {"epochs": 20_000, "batch_size": 16, "patience": 20_000}}
    config = write_toml(stdlib, tmp_path / "a.toml", sections={**PLAIN, **QUICK}, **changed)
    first = warm_command(config, tmp_path)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and not list((tmp_path / "cache" / "runs").glob("*/run.pt")):
            time.sleep(0.05)
        second = warm_command(config, tmp_path, "--resume")
        output, said = second.communicate(timeout=150)
        assert first.poll() is None, "the first run ended too early to tell"
        assert second.returncode == 1, output
        assert "no interrupted run to resume" in said
    finally:
        first.kill()
        first.communicate()
    third = warm_command(config, tmp_path, "--resume")  # killed, so its run is one to go on with
    time.sleep(0.5)
    until = time.monotonic() + 120
    while time.monotonic() < until and third.poll() is None:
        if only_run(tmp_path).info.status == "RUNNING" and _goes_on(third):
            break
    assert third.poll() is None
    third.kill()
    third.communicate()


def _goes_on(process: WarmPython) -> bool:
    return any("going on with epoch" in line for line in iter(process.stderr.readline, ""))


@pytest.mark.exhaustive
def test_the_smallest_toml_gives_a_run_and_a_bundle_with_every_key_set(
    stdlib: Path, store: str, tmp_path: Path, console: Console
) -> None:
    data = {name: str(stdlib / f"{name}.parquet") for name in ("items", "pairs")}
    sections: dict[str, Any] = {
        "data": {"kind": "files", **data, **FEW},
        "query.text": {"kind": "text", "column": "query"},
        "item.text": {"kind": "text", "column": "text"},
        "tower": {"kind": "bag"},
        **QUICK,
        "training": {"threads": 1, "epochs": 2},
    }
    experiment, dataset = experiment_at(write_sections(tmp_path / "a.toml", "smallest", sections, {}))
    said = io.StringIO()
    run, _ = fit(experiment, dataset, Console(file=said, width=400))
    chosen = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/chosen_from_data.json")
    assert {"item.text.max_length", "tower.buckets", "training.batch_size"} < set(chosen)
    for key, choice in chosen.items():
        value = tuple(choice["value"]) if isinstance(choice["value"], list) else choice["value"]
        assert run.data.params[key] == str(value)
        assert f"{key} = " in said.getvalue()
    read = {key: value for key, value in run.data.params.items() if key.split(".")[0] in SECTIONS}
    assert "None" not in read.values()
    data_read = training_data_of(dataset, experiment.query, experiment.item)
    assert load_model(run).experiment.tower == from_data(experiment, data_read).experiment.tower
    assert fit(experiment, dataset, console)[1]  # the key of the run is that of the TOML and its data
    folder, _ = build_bundle(experiment, dataset, run)
    length = chosen["item.text.max_length"]["value"]
    served = read_manifest(folder).schema.item["text"]
    assert isinstance(served, TextFeature)
    assert served.max_length == length
