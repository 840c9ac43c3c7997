"""Towers that learn from validation in the end: what they learn from, what stays as chosen, and resuming."""

import copy
import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import Run
from rich.console import Console

from tests.helpers.people import both_sides, data_of_people, random_people
from tests.helpers.stdlib import Sections, experiment_at, tracking_at, write_sections
from tests.helpers.watched import ATTENTION, RATINGS, write_toml
from tests.train.evaluation.test_history_baselines import experiment_with, timed
from twinspire.protos.errors import ConfigError
from twinspire.train.config import Experiment, read_experiment
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.dataset import Dataset
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.evaluation.baselines import baselines
from twinspire.train.evaluation.exact_search import encode
from twinspire.train.evaluation.ranking import BaselineFitter, Tuning
from twinspire.train.metrics import mean, per_query
from twinspire.train.training import run as training
from twinspire.train.training.checkpoint import RUN_STATE
from twinspire.train.training.refit import REFIT, _RefitCallbacks
from twinspire.train.training.run_metrics import metrics_of
from twinspire.train.training.trained_model import Model, load_model
from twinspire.train.training.trainer import Trainer

ITEMS = 30
RECIPE: Sections = {
    **ATTENTION,
    "query.time": {"kind": "time"},
    "tower": {"kind": "history", "buckets": 512},
}


@pytest.fixture(scope="module")
def data() -> TrainingData:
    people = random_people(80, ITEMS)
    times = [float(n) for each in people for n in range(len(each))]
    return timed(data_of_people(people, ITEMS), times)


def test_baselines_keep_their_choices_and_learn_from_validation(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_with(training=TrainingConfig(selection="ndcg_at_10", refit=True))
    console = Console(file=io.StringIO())
    fitter = BaselineFitter(experiment, data)
    before = baselines(experiment, data, console, fitter)
    both = data.with_validation()
    again = baselines(experiment, both, console)  # as the exporter fits them without the run's choices
    monkeypatch.setattr(Tuning, "quality", None)  # nothing is chosen again
    after = baselines(experiment, both, console, BaselineFitter(experiment, both, choices=fitter.choices))
    assert {name: each.settings for name, each in before.items()} == {
        name: each.settings for name, each in after.items()
    }
    queries, relevant = data.parts["validation"].by_query()
    for name, each in after.items():
        np.testing.assert_array_equal(each(queries), again[name](queries), err_msg=name)
    for name in ("ease", "slist", "itemknn"):  # they have seen the answers by now
        known, unknown = (mean(per_query(each[name](queries), relevant)) for each in (after, before))
        assert known["ndcg_at_10"] > unknown["ndcg_at_10"] + 0.02, name


@dataclass
class Made:
    """A run with `refit`, one without, what both were trained on, what both showed, and their models."""

    experiment: Experiment
    dataset: Dataset
    refitted: Run
    plain: Run
    shown: str
    plain_shown: str
    model: Model
    plain_model: Model


@pytest.fixture(scope="module")
def made(films: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("refit")
    changed: Any = {"training": {"epochs": 2, "refit": True}, "baselines": {"run": ["slist", "ease_recency"]}}
    experiment, dataset = experiment_at(write_toml(films, folder / "a.toml", sections=RECIPE, **changed))
    plain = replace(experiment, training=replace(experiment.training, refit=False))
    shown, plain_shown = io.StringIO(), io.StringIO()
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, folder)}"):
        refitted, _ = training.fit(experiment, dataset, Console(file=shown, width=200))
        without, _ = training.fit(plain, dataset, Console(file=plain_shown, width=200))
        texts = shown.getvalue(), plain_shown.getvalue()
        models = load_model(refitted), load_model(without)
        yield Made(experiment, dataset, refitted, without, *texts, *models)


def trainer_of(model: Model, run: Run, made: Made) -> Trainer:
    """A trainer of stored towers, whose items have unit length, and the quality on test that the run says."""
    data = training_data_of(made.dataset, made.experiment.query, made.experiment.item)
    inputs = both_sides(model.schema, data, model.experiment.tower)
    lengths = encode(model.towers[1], inputs[1]).norm(dim=1)  # by the radius that is stored
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-4, rtol=0)
    towers = copy.deepcopy(model.towers)  # evaluating them fits their radius
    trainer = Trainer(towers, data, inputs, made.experiment.loss, model.experiment.training)
    assert trainer.evaluate("test")["ndcg_at_10"] == pytest.approx(metrics_of(run)["ndcg_at_10"], abs=1e-6)
    return trainer


def test_what_validation_says_is_that_of_towers_that_have_not_learned_from_it(made: Made) -> None:
    ours, theirs = made.refitted.data, made.plain.data
    for name, value in theirs.metrics.items():
        if name.startswith("validation/"):
            assert ours.metrics[name] == value, name
    kept = [name for name in theirs.params if name.startswith(("mixture", "baselines"))]
    assert kept
    assert {name: ours.params[name] for name in kept} == {name: theirs.params[name] for name in kept}


def test_the_stored_towers_are_the_refitted_ones_and_those_that_test_measures(made: Made) -> None:
    trainer = trainer_of(made.model, made.refitted, made)
    own = metrics_of(made.refitted)["validation_mixture_ndcg_at_10"]
    assert trainer.evaluate("validation")["ndcg_at_10"] > own + 0.05  # it has seen the answers


def test_a_run_holds_its_mixture(made: Made) -> None:
    """The run without `refit`."""
    assert "tower.linear = 120  (120 items" in made.plain_shown
    metrics, params = metrics_of(made.plain), made.plain.data.params
    assert f"{params['mixture.model']} (" in made.plain_shown
    assert f"{metrics['validation_mixture_ndcg_at_10']:.4f}" in made.plain_shown
    ends = [metrics[f"validation_mixture_{each}_ndcg_at_10"] for each in ("alone", "without")]
    assert metrics["validation_mixture_ndcg_at_10"] > max(ends) - 0.03
    query = trainer_of(made.plain_model, made.plain, made).towers[0]
    assert query.mixture is not None
    assert query.mixture.weights[0] > 0


def test_a_run_holds_recent_popularity_after_a_refit(made: Made) -> None:
    assert "tower.recent_popularity = 128  (queries have times)" in made.shown
    assert "recent popularity (form " in made.shown
    assert float(made.refitted.data.params["recent_popularity.weight"]) > 0
    assert "validation_recent_ndcg_at_10" in metrics_of(made.refitted)
    query, _ = made.model.towers
    assert query.recent is not None and query.recent.weights[0] > 0


def test_a_run_says_that_it_trains_again_and_logs_the_losses(made: Made) -> None:
    best = int(made.refitted.data.metrics["train/best_epoch"])
    assert best == 2
    assert f"training anew on training and validation pairs together, {best} epochs" in made.shown
    client = mlflow.MlflowClient()
    losses = client.get_metric_history(made.refitted.info.run_id, "train/refit_loss")
    assert [point.step for point in losses] == [*range(1, best + 1)]
    assert made.refitted.data.metrics["train/refit_s"] > 0
    assert "train/refit_s" not in made.plain.data.metrics


@pytest.mark.exhaustive
def test_an_interrupted_refit_goes_on_to_the_same_towers(
    made: Made, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CACHE", tmp_path / "cache")
    on_epoch_start = _RefitCallbacks.on_epoch_start
    steps: list[float] = []

    def interrupt(callbacks: _RefitCallbacks, epoch: int, *counts: int) -> Callable[[float], None]:
        """Ctrl-C in the second epoch, after its third step."""
        report = on_epoch_start(callbacks, epoch, *counts)

        def count(loss: float) -> None:
            report(loss)
            if epoch == 1:
                steps.append(loss)
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGINT)

        return count

    monkeypatch.setattr(_RefitCallbacks, "on_epoch_start", interrupt)
    quiet = Console(file=io.StringIO(), width=200)
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, tmp_path)}"):
        with pytest.raises(KeyboardInterrupt, match="goes on with run"):
            training.fit(made.experiment, made.dataset, quiet)
        (state,) = (tmp_path / "cache").glob(f"runs/*/{REFIT}/{RUN_STATE}")
        run, reused = training.fit(made.experiment, made.dataset, quiet, resume=True)
        model = load_model(run)
    assert not reused
    assert not state.exists()
    assert "going on with epoch 2 of these, step 3" in quiet.file.getvalue()  # type: ignore[attr-defined]
    for one, other in zip(model.towers, made.model.towers, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=0, msg=name)
    assert run.data.metrics["test/ndcg_at_10"] == made.refitted.data.metrics["test/ndcg_at_10"]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({**ATTENTION, "split": {"by": "random"}}, r"training\.refit: with split\.by = \"random\" a user's"),
        (RATINGS, r"training\.refit: these towers predict a probability that is calibrated on validation"),
    ],
)
def test_towers_that_must_not_know_validation_are_refused(
    tmp_path: Path, sections: Sections, said: str
) -> None:
    path = write_sections(tmp_path / "a.toml", "refused", sections, {"training": {"refit": True}})
    with pytest.raises(ConfigError, match=said):
        read_experiment(path)
