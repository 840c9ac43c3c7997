"""Ctrl-C asks for a stop; asked twice it is one at once."""

import os
import signal
from pathlib import Path

import mlflow
import pytest
from rich.console import Console

from tests.train.models.test_ages import towers, trainer
from twinspire.protos.cli import Terminated
from twinspire.train.data.history_batches import DrawnBatches
from twinspire.train.training.callbacks import RunCallbacks
from twinspire.train.training.tracking import tracked_run
from twinspire.train.training.trainer import Interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_for_a_stop_and_another_is_obeyed_at_once(
    tmp_path: Path, console: Console, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as raised, RunCallbacks(tmp_path, console).watching() as callbacks:
        assert not callbacks.should_stop()
        os.kill(os.getpid(), number)
        assert callbacks.should_stop()
        os.kill(os.getpid(), number)
        raise AssertionError("the second signal was not obeyed")
    assert signal.getsignal(number) is before
    assert raised.type is (Terminated if number == signal.SIGTERM else KeyboardInterrupt)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_is_repeated_anyway_is_broken_off_by_the_first_signal(
    tmp_path: Path, console: Console, number: signal.Signals
) -> None:
    expected = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    with pytest.raises(expected), RunCallbacks(tmp_path, console).watching() as callbacks:
        with callbacks.repeatable():
            assert not callbacks.should_stop()
        with pytest.raises(Interrupted), callbacks.repeatable():
            os.kill(os.getpid(), number)
            raise AssertionError("the signal was not obeyed")
        with pytest.raises(Interrupted), callbacks.repeatable():
            raise AssertionError("a stop was asked for before")


def test_a_stop_after_the_last_step_is_one(tmp_path: Path, console: Console) -> None:
    with pytest.raises(KeyboardInterrupt), RunCallbacks(tmp_path, console).watching():
        os.kill(os.getpid(), signal.SIGINT)


def test_every_step_is_logged_also_beyond_what_one_call_takes(
    store: str, tmp_path: Path, console: Console
) -> None:
    with tracked_run("books", "fit", "a") as run_id, RunCallbacks(tmp_path, console).watching() as callbacks:
        report = callbacks.on_epoch_start(epoch=1, steps=2100, done=100, earlier_steps=2050)
        for step in range(2000):
            report(step / 2)
        callbacks.on_epoch_end(
            2, {"validation_recall_at_10": 0.5, "validation_ndcg_at_10": 0.25, "loss": 1.0}
        )
    client = mlflow.MlflowClient()
    steps = client.get_metric_history(run_id, "train/step_loss")
    assert [(point.step, point.value) for point in steps[:2]] == [(2151, 0.0), (2152, 0.5)]
    assert len(steps) == 2000
    (recall,) = client.get_metric_history(run_id, "validation/recall_at_10")
    assert (recall.step, recall.value) == (2, 0.5)


def test_steps_are_numbered_on_where_epochs_have_different_numbers_of_them(
    store: str, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = trainer(towers())
    drawn = trained.history_batches
    assert drawn is not None
    every = drawn.draw((0, 0))
    count = len(every)
    assert count > 1
    windows, make = drawn._drawn(0, (0, 0))
    twice, fewer = ([*windows, *windows], make), (windows[1:], make)
    monkeypatch.setattr(drawn, "draw", lambda seed: DrawnBatches([lambda: twice if seed[1] == 0 else fewer]))
    with tracked_run("books", "fit", "a") as run_id, RunCallbacks(tmp_path, console).watching() as callbacks:
        trained.fit(callbacks)
    steps = mlflow.MlflowClient().get_metric_history(run_id, "train/step_loss")
    assert [point.step for point in steps] == list(range(1, 3 * count))
