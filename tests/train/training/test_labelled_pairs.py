"""The end of a run on labelled pairs, also when it is interrupted there."""

import io
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from tests.helpers.click_logs import CLICKS_TOML, write_clicks
from tests.helpers.people import data_of_people
from tests.helpers.stdlib import experiment_at, tracking_at
from twinspire.protos.bundle import Score
from twinspire.train.config import read_experiment
from twinspire.train.config.baselines import BaselinesConfig
from twinspire.train.data.training_data import Pairs
from twinspire.train.models.towers import LogisticHead
from twinspire.train.paths import CONFIGS
from twinspire.train.training import labelled_pairs
from twinspire.train.training import run as training
from twinspire.train.training.labelled_pairs import Calibration, LabelledPairs
from twinspire.train.training.trained_model import load_model


def test_the_area_of_a_run_is_that_of_its_logits() -> None:
    data = data_of_people([[0, 1, 2, 3], [1, 0, 3, 2]], 8)
    labels, logits = np.array([1.0, 0, 1, 0], np.float32), np.array([60, 50, 45, 40], np.float32)
    ones, rows = np.ones(4, np.float32), np.arange(4)
    pairs = Pairs(rows % 2, rows, ones, labels)
    data = replace(data, parts=dict.fromkeys(("train", "validation", "test"), pairs))
    tower = SimpleNamespace(head=SimpleNamespace(score=lambda: Score("sigmoid", bias=0.5)))
    trainer: Any = SimpleNamespace(data=data, towers=[tower], inner_products=lambda pairs: logits)
    experiment = replace(
        read_experiment(CONFIGS / "movielens-clicks.toml"), baselines=BaselinesConfig(run=("itemmean",))
    )
    found = LabelledPairs(trainer).metrics(experiment)  # of these logits all probabilities are 1
    assert found["auc"] == roc_auc_score(labels, logits) == 0.75
    assert {"labelled_pairs", "log_loss", "ece", "itemmean_auc_gain_low"} <= {*found}


def test_a_run_that_is_resumed_after_its_calibration_is_calibrated_once(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clicks(tmp_path, users=30, items=20, events=600)
    toml = CLICKS_TOML.replace("epochs = 6", "epochs = 1").replace("batch_size = 256", "batch_size = 64")
    (tmp_path / "clicks.toml").write_text(toml + '[baselines]\nrun = ["popularity"]\n')
    experiment, dataset = experiment_at(tmp_path / "clicks.toml")
    before = []
    change = LogisticHead.calibrate

    def calibrate(head: LogisticHead, scale: float, shift: float) -> None:
        before.append((head.weight[0].item(), head.bias.item()))
        change(head, scale, shift)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(labelled_pairs, "calibrate", lambda *_: Calibration("platt", 2.0, 0.5))
    monkeypatch.setattr(LogisticHead, "calibrate", calibrate)
    console = Console(file=io.StringIO())
    with tracking_at(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="goes on with run"):
            patch.setattr(training, "baselines", interrupt)  # the first thing after the calibration
            training.fit(experiment, dataset, console)
        run, _ = training.fit(experiment, dataset, console, resume=True)
        head = load_model(run).towers[0].head
    (weight, bias), again = before
    assert again == (weight, bias)
    assert isinstance(head, LogisticHead)
    assert (head.weight[0].item(), head.bias.item()) == pytest.approx((2 * weight, 2 * bias + 0.5))
    assert not [*training.run_folder(run.info.run_id).glob("**/*.pt")]
