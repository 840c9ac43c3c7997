"""The moving average of the weights: its numbers, and what a trainer evaluates, keeps and stores with it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.train.training.test_ranks import parameters
from tests.train.training.test_trainer import (
    Impatient,
    Watcher,
    history,
    toml,
    trainer_at,
)
from twinspire.train.models.optimiser import AVERAGE, exchange_average, update_average
from twinspire.train.training.checkpoint import load_run
from twinspire.train.training.trainer import Interrupted, Trainer

__all__ = ["toml"]  # a fixture


def averages(trainer: Trainer) -> list[torch.Tensor]:
    states = trainer.optimiser.state
    return [states[each][AVERAGE] for group in trainer.optimiser.param_groups for each in group["params"]]


def test_the_window_is_a_tenth_of_the_steps_until_it_is_full() -> None:
    weight, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimiser = torch.optim.Adam([weight, frozen], lr=0.1)
    expected = np.zeros(3)
    for done in range(1, 61):
        optimiser.zero_grad()
        (weight * torch.tensor([1.0, -2.0, 0.5])).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        update_average(optimiser, 4.0, done)
        now = weight.detach().numpy().astype(np.float64)
        expected = expected + (now - expected) / np.clip(done / 10, 1, 4)
    np.testing.assert_allclose(optimiser.state[weight][AVERAGE].numpy(), expected, rtol=1e-5)
    assert abs(weight.detach().numpy() - expected).min() > 0.1  # the average lags behind
    assert frozen not in optimiser.state or AVERAGE not in optimiser.state[frozen]


def test_an_exchange_leaves_the_memory_where_it_is_and_is_its_own_inverse() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimiser = torch.optim.Adam([weight], lr=0.1)
    exchange_average(optimiser)  # there is none yet
    assert weight.tolist() == [1, 2]
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    update_average(optimiser, 10.0, 1)
    average = optimiser.state[weight][AVERAGE]
    average.copy_(torch.tensor([5.0, 6.0]))
    before, places = weight.tolist(), (weight.data_ptr(), average.data_ptr())
    exchange_average(optimiser)
    assert (weight.tolist(), average.tolist()) == ([5, 6], before)
    exchange_average(optimiser)
    assert (weight.tolist(), average.tolist()) == (before, [5, 6])
    assert (weight.data_ptr(), average.data_ptr()) == places


class Witness(Watcher):
    """Keeps parameters and averages of the last checkpoint, and the parameters of the best towers."""

    def on_checkpoint(self, trainer: Trainer) -> None:
        super().on_checkpoint(trainer)
        self.stored = [each.clone() for each in parameters(trainer)]
        if trainer.state.epoch:
            self.averages = [each.clone() for each in averages(trainer)]

    def on_best(self, trainer: Trainer) -> None:
        super().on_best(trainer)
        self.best = [each.clone() for each in parameters(trainer)]


def test_what_is_evaluated_and_kept_is_the_average_and_training_goes_on_without_it(
    toml: Callable[..., Path],
) -> None:
    plain = trainer_at(toml(epochs=2, batch_size=32, patience=2))
    plain.fit(Watcher())
    trainer = trainer_at(toml(epochs=2, batch_size=32, patience=2, average_epochs=0.5))
    witness = Witness()
    trainer.fit(witness)
    assert trainer.state.best_epoch == 2
    assert all(map(torch.equal, witness.best, witness.averages))
    assert not any(map(torch.equal, witness.best, witness.stored))
    # The steps are those of a training without an average.
    assert all(map(torch.equal, parameters(trainer), parameters(plain)))
    assert trainer.state.losses == plain.state.losses
    assert history(trainer)[0] == history(plain)[0]


def test_a_stop_in_an_evaluation_stores_the_weights_and_not_their_average(
    toml: Callable[..., Path], tmp_path: Path
) -> None:
    path = toml(epochs=1, patience=1, batch_size=16, average_epochs=1.0)  # 31 steps
    straight = trainer_at(path)
    straight.fit(Watcher())
    trainer = trainer_at(path)
    with pytest.raises(Interrupted):
        trainer.fit(Impatient(tmp_path / "run.pt", 3))  # after the start and the mining
    resumed = trainer_at(path)
    load_run(tmp_path / "run.pt", resumed)
    assert resumed.state.step == 31
    assert not any(map(torch.equal, averages(resumed), parameters(resumed)))
    assert all(map(torch.equal, parameters(resumed), parameters(straight)))
    assert all(map(torch.equal, averages(resumed), averages(straight)))
    resumed.fit(Watcher())
    assert history(resumed) == history(straight)


def test_a_training_on_both_parts_ends_with_the_average(toml: Callable[..., Path]) -> None:
    trainer = trainer_at(toml(epochs=2, average_epochs=1.0))
    trainer.refit(Watcher(), 2)
    plain = trainer_at(toml(epochs=2))
    plain.refit(Watcher(), 2)
    assert all(map(torch.equal, averages(trainer), parameters(plain)))  # they have changed places
    assert not any(map(torch.equal, parameters(trainer), parameters(plain)))
