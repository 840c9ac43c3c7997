"""The way from a run back to its towers."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.entities import Run

from tests.helpers.stdlib import FEATURES, Made, started, tracking_at, write_toml
from twinspire.protos.errors import DataError, MissingStage, Unavailable
from twinspire.train.models.text_hashing import HASHING_VERSION
from twinspire.train.training.checkpoint import save_towers
from twinspire.train.training.tracking import tracked_run
from twinspire.train.training.trained_model import ARTIFACTS, DESCRIPTION, Model, load_model

Stored = Callable[..., tuple[Model, Run]]


@pytest.fixture
def stored(store: str, stdlib: Path, tmp_path: Path) -> Stored:
    """Stores a model of every kind of feature in a run, with a description that may be changed."""
    model, _, _ = started(write_toml(stdlib, tmp_path / "a.toml", sections=FEATURES))
    save_towers(tmp_path / "towers.pt", model.towers)

    def store_it(change: Callable[[dict[str, Any]], object] = bool) -> tuple[Model, Run]:
        description = json.loads(model.description())
        change(description)
        with tracked_run("books", "fit", "a") as run_id:
            mlflow.log_dict(description, f"{ARTIFACTS}/{DESCRIPTION}")
            mlflow.log_artifact(str(tmp_path / "towers.pt"), ARTIFACTS)
        return model, mlflow.get_run(run_id)

    return store_it


def test_a_model_of_every_kind_of_feature_comes_back(stored: Stored) -> None:
    model, run = stored()
    again = load_model(run)
    assert again.experiment == model.experiment
    assert again.schema == model.schema
    for one, other in zip(again.towers, model.towers, strict=True):
        assert not one.training
        ours, theirs = one.state_dict(), other.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_without_a_model_is_named(store: str) -> None:
    with tracked_run("books", "fit", "a") as run_id:
        pass
    with pytest.raises(MissingStage, match=f"run {run_id}: holds no model .*; train one first"):
        load_model(mlflow.get_run(run_id))


def test_a_server_that_does_not_answer_is_not_a_run_without_a_model(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracked_run("books", "fit", "a") as run_id:
        pass
    run = mlflow.get_run(run_id)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        tracking_at("http://127.0.0.1:9"),
        pytest.raises(Unavailable, match=f"run {run_id}: its model cannot be listed: "),
    ):
        load_model(run)


@pytest.mark.parametrize("scheme", [None, HASHING_VERSION - 1])
def test_towers_that_know_texts_by_other_rows_are_refused(stored: Stored, scheme: int | None) -> None:
    def change(description: dict[str, Any]) -> None:
        assert description.pop("hashing") == HASHING_VERSION
        if scheme is not None:
            description["hashing"] = scheme

    told = "unknown" if scheme is None else scheme
    expected = rf"another text hashing scheme \({told}, now {HASHING_VERSION}\); train"
    with pytest.raises(MissingStage, match=expected):
        load_model(stored(change)[1])


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("tower", "gates", True, r"another version.*: tower\.gates: unknown key.*train again"),
        ("split", "test_file", "test.csv", r"split\.test_file: unknown key"),
        ("split", "test_file", "", ""),  # a run of before, without a file of test pairs
    ],
)
def test_a_model_with_a_key_that_is_not_known_is_refused_with_the_key(
    stored: Stored, section: str, key: str, value: Any, said: str
) -> None:
    model, run = stored(lambda description: description["experiment"][section].update({key: value}))
    if said:
        with pytest.raises(DataError, match=said):
            load_model(run)
    else:
        assert load_model(run).experiment == model.experiment


@pytest.mark.parametrize("description", ["{", "{}", '{"experiment": {"name": 3}, "schema": {}}'])
def test_a_damaged_description_is_named(store: str, description: str) -> None:
    with tracked_run("books", "fit", "a") as run_id:
        mlflow.log_text(description, f"{ARTIFACTS}/{DESCRIPTION}")
    with pytest.raises(DataError, match=rf"{DESCRIPTION}: damaged"):
        load_model(mlflow.get_run(run_id))


def test_the_description_is_the_whole_experiment(made: Made) -> None:
    model = load_model(made.run)
    tower: Any = made.experiment.tower
    tower = dataclasses.replace(tower, characters=())  # which the TOML leaves to the data
    assert dataclasses.asdict(model.experiment) == dataclasses.asdict(
        dataclasses.replace(made.experiment, tower=tower)
    )
