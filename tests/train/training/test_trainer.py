"""The loop learns, stops in time, and goes on after an interruption as if there had been none."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.stdlib import DSSM, PLAIN, Sections, started, write_toml
from twinspire.train.data.training_data import TrainingData
from twinspire.train.metrics import mean, per_query
from twinspire.train.training.checkpoint import load_run, save_run
from twinspire.train.training.trainer import Callbacks, Interrupted, Trainer

TIMES = ("epoch_s", "pairs_per_s")  # the figures that no two runs share
KINDS = pytest.mark.parametrize("sections", [PLAIN, DSSM], ids=["hard negatives", "sampled softmax"])


class Watcher(Callbacks):
    """Records what the trainer reports, saves the run, and asks to stop after some steps."""

    def __init__(self, path: Path | None = None, stop_after: int = -1) -> None:
        self.path = path
        self.left = stop_after
        self.losses: list[float] = []
        self.epochs: list[int] = []
        self.bests: list[int] = []
        self.kept: list[torch.Tensor] = []

    def on_epoch_start(self, epoch: int, steps: int, done: int, before: int) -> Callable[[float], None]:
        return self.losses.append

    def on_epoch_end(self, epoch: int, record: dict[str, float]) -> None:
        self.epochs.append(epoch)

    def on_checkpoint(self, trainer: Trainer) -> None:
        if self.path is not None:
            save_run(self.path, trainer)

    def on_best(self, trainer: Trainer) -> None:
        self.bests.append(trainer.state.epoch)
        self.kept = weights(trainer)

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left == 0


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [value.clone() for tower in trainer.towers for value in tower.state_dict().values()]


def history(trainer: Trainer) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k not in TIMES} for record in trainer.state.history]


def trainer_at(path: Path, changed: Callable[[TrainingData], TrainingData] = lambda data: data) -> Trainer:
    torch.set_num_threads(1)  # first of all: what a tower starts as is rounded by the number of threads, too
    model, data, prepared = started(path)
    return Trainer(model.towers, changed(data), prepared, model.experiment.loss, model.experiment.training)


@pytest.fixture
def toml(stdlib: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(sections: Sections = PLAIN, loss: Any = None, **training: Any) -> Path:
        changed: dict[str, Any] = {"training": training, "loss": loss or {}}
        return write_toml(stdlib, tmp_path / "a.toml", sections=sections, **changed)

    return write


def popularity(data: TrainingData, part: str) -> float:
    """recall@10 of the items that most training pairs hold."""
    counts = Counter(data.parts["train"].item.tolist())
    ranked = np.array([[row for row, _ in counts.most_common(100)]])
    queries, relevant = data.parts[part].by_query()
    return mean(per_query(ranked.repeat(len(queries), axis=0), relevant))["recall_at_10"]


def test_learning_beats_the_start_and_popularity(toml: Callable[..., Path]) -> None:
    trainer = trainer_at(toml(epochs=6, batch_size=32, patience=6))
    trainer.fit(Watcher())
    first, *later = (record["validation_recall_at_10"] for record in trainer.state.history)
    assert trainer.state.highest == max(later)
    assert trainer.state.best > first + 0.02
    assert trainer.state.best > popularity(trainer.data, "validation") + 0.2
    losses = [record["loss"] for record in trainer.state.history[1:]]
    assert losses[-1] < 0.7 * losses[0]


def test_the_papers_model_learns_from_nothing(toml: Callable[..., Path]) -> None:
    trainer = trainer_at(toml(DSSM, epochs=8, batch_size=16, patience=8, learning_rate=3e-3))
    trainer.fit(Watcher())
    losses = [record["loss"] for record in trainer.state.history[1:]]
    assert losses[-1] < 0.5 * losses[0]
    chance = 100 / trainer.data.item_count
    found = trainer.state.history[-1]["validation_recall_at_100"]
    assert found > 2 * chance


def test_the_best_epoch_is_the_one_that_is_kept(toml: Callable[..., Path]) -> None:
    watcher = Watcher()
    trainer = trainer_at(toml(epochs=5, batch_size=32, patience=5))
    trainer.fit(watcher)
    figures = [record["validation_recall_at_10"] for record in trainer.state.history]
    ndcg = [record["validation_ndcg_at_10"] for record in trainer.state.history]
    assert watcher.epochs == list(range(6))
    one_query = 1 / len(trainer.data.parts["validation"].by_query()[0]) + 1e-9
    close = [epoch for epoch, each in enumerate(figures) if each >= max(figures) - one_query]
    assert trainer.state.best_epoch == max(close, key=lambda epoch: ndcg[epoch]) == watcher.bests[-1]
    assert trainer.state.best == figures[trainer.state.best_epoch]
    for tower in trainer.towers:
        count = len(tower.state_dict())
        tower.load_state_dict(dict(zip(tower.state_dict(), watcher.kept[:count], strict=True)))
        del watcher.kept[:count]
    trainer.clear_cached_vectors()
    assert trainer.evaluate("validation")["recall_at_10"] == trainer.state.best


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_a_run_that_gets_no_better(toml: Callable[..., Path], patience: int) -> None:
    watcher = Watcher()
    trainer = trainer_at(toml(epochs=9, patience=patience, learning_rate=10.0, batch_size=256))
    trainer.fit(watcher)
    assert watcher.bests == [0]
    assert watcher.epochs == list(range(patience + 1))  # the start, then as many as are borne
    trainer.fit(watcher)
    assert watcher.epochs[-1] == patience


@pytest.mark.parametrize(
    ("selection", "epochs", "best"),
    [
        ("recall_at_10", [(10, 0.30), (11, 0.29), (12, 0.31), (11, 0.33), (10, 0.40)], 3),
        ("recall_at_10", [(10, 0.30), (10, 0.30), (9, 0.29)], 0),
        ("hr_at_10", [(10, 0.30), (12, 0.20), (14, 0.10)], 2),
        ("mrr_at_10", [(10, 0.30), (11, 0.29), (10, 0.50)], 1),
        ("auc", [(10, 0.30), (10, 0.50)], 0),
    ],
)
def test_epochs_within_one_query_are_compared_by_ndcg(
    toml: Callable[..., Path], selection: str, epochs: list[tuple[int, float]], best: int
) -> None:
    trainer = trainer_at(toml(selection=selection))
    queries = len(trainer.data.parts["validation"].by_query()[0])
    for epoch, (found, ndcg) in enumerate(epochs):
        if trainer._is_best(found / queries, ndcg):
            trainer.state.best_epoch, trainer.state.best = epoch, found / queries
            trainer.state.best_ndcg = ndcg
    assert trainer.state.best_epoch == best


@pytest.mark.parametrize("kind", ["full_softmax", "in_batch_softmax", "sampled_softmax"])
def test_the_start_is_kept_where_training_makes_it_worse(toml: Callable[..., Path], kind: str) -> None:
    watcher = Watcher()
    sections = {**PLAIN, "loss": {"kind": kind}}
    trainer = trainer_at(toml(sections, epochs=2, patience=1, learning_rate=10.0, batch_size=256))
    start = weights(trainer)
    trainer.fit(watcher)
    assert (watcher.bests, trainer.state.best_epoch) == ([0], 0)
    assert any(not torch.equal(a, b) for a, b in zip(start, weights(trainer), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(start, watcher.kept, strict=True))


def test_the_same_seed_gives_the_same_weights(toml: Callable[..., Path]) -> None:
    runs = []
    for seed in (1, 1, 2):
        trainer = trainer_at(toml(epochs=1, seed=seed))
        trainer.fit(Watcher())
        runs.append(weights(trainer))
    assert all(map(torch.equal, runs[0], runs[1]))
    assert not all(map(torch.equal, runs[0], runs[2]))


@KINDS
def test_threads_do_not_make_a_run_a_matter_of_luck(toml: Callable[..., Path], sections: Sections) -> None:
    path = toml(sections, epochs=1, batch_size=256)
    runs = []
    for _ in range(3):
        trainer = trainer_at(path)
        torch.set_num_threads(2)
        trainer.fit(Watcher())
        runs.append(weights(trainer))
    for run in runs[1:]:
        assert all(map(torch.equal, runs[0], run))


def interrupted(path: Path, state: Path, stops: list[int]) -> Trainer:
    """A trainer that goes on where others have stopped, each after this number of its own steps."""
    trainer = trainer_at(path)
    for stop in stops:
        with pytest.raises(Interrupted):
            trainer.fit(Watcher(state, stop))
        trainer = trainer_at(path)
        load_run(state, trainer)
    return trainer


@KINDS
@pytest.mark.parametrize("stops", [[11], [8], [3, 6]], ids=["in an epoch", "between epochs", "twice"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    toml: Callable[..., Path], tmp_path: Path, sections: Sections, stops: list[int]
) -> None:
    path = toml(sections, epochs=3, patience=3)  # of 8 steps an epoch
    straight = trainer_at(path)
    straight.fit(Watcher())
    trainer = interrupted(path, tmp_path / "run.pt", stops)
    assert trainer.state.step + 8 * trainer.state.epoch == sum(stops)
    trainer.fit(Watcher())
    assert all(map(torch.equal, weights(trainer), weights(straight)))
    assert history(trainer) == history(straight)
    assert trainer.state.losses == straight.state.losses
    assert trainer.state.best_epoch == straight.state.best_epoch


class Impatient(Watcher):
    """Stops the trainer in the n-th piece of work that a resumed run does again: mining, or an evaluation."""

    def __init__(self, path: Path, stop_in: int) -> None:
        super().__init__(path)
        self.pieces = stop_in

    @contextlib.contextmanager
    def repeatable(self) -> Iterator[None]:
        self.pieces -= 1
        yield
        if self.pieces == 0:
            raise Interrupted


def test_a_run_may_be_interrupted_while_it_mines_and_evaluates(
    toml: Callable[..., Path], tmp_path: Path
) -> None:
    path = toml(epochs=2, patience=2)
    straight = trainer_at(path)
    straight.fit(Watcher())
    state = tmp_path / "run.pt"
    trainer = trainer_at(path)
    stopped = []
    for piece in (1, 2, 2, 4):  # the start, the first mining, the first evaluation, the last evaluation
        with pytest.raises(Interrupted):
            trainer.fit(Impatient(state, piece))
        trainer = trainer_at(path)
        load_run(state, trainer)
        stopped.append((len(trainer.state.history), trainer.state.epoch, trainer.state.step))
    assert stopped == [(0, 0, 0), (1, 0, 0), (1, 0, 8), (2, 1, 8)]
    trainer.fit(Watcher())
    assert all(map(torch.equal, weights(trainer), weights(straight)))
    assert history(trainer) == history(straight)


def test_the_time_of_a_run_is_that_of_all_its_parts(toml: Callable[..., Path], tmp_path: Path) -> None:
    path, state = toml(epochs=2, patience=2), tmp_path / "run.pt"
    trainer = trainer_at(path)
    with pytest.raises(Interrupted):
        trainer.fit(Watcher(state, 3))
    first, in_epoch = trainer.state.seconds, trainer.state.epoch_seconds
    assert 0 < in_epoch < first
    trainer.state.seconds, trainer.state.epoch_seconds = first + 1000, in_epoch + 500
    save_run(state, trainer)
    again = trainer_at(path)
    load_run(state, again)
    again.fit(Watcher(state))
    _, broken, whole = again.state.history
    assert broken["epoch_s"] > in_epoch + 500 > 500 > whole["epoch_s"]
    assert broken["pairs_per_s"] == len(again.pairs) / broken["epoch_s"]
    assert again.state.seconds > 1000 + first + whole["epoch_s"]


def test_a_run_that_ended_does_not_go_on(toml: Callable[..., Path], tmp_path: Path) -> None:
    path = toml(epochs=1)
    trainer = trainer_at(path)
    trainer.fit(Watcher(tmp_path / "run.pt"))
    again, watcher = trainer_at(path), Watcher()
    load_run(tmp_path / "run.pt", again)
    again.fit(watcher)
    assert (watcher.epochs, watcher.losses) == ([], [])
    assert all(map(torch.equal, weights(again), weights(trainer)))


def weighted(rows: Any, weight: float) -> Callable[[TrainingData], TrainingData]:
    """The data with another weight for some training pairs."""

    def changed(data: TrainingData) -> TrainingData:
        train = data.parts["train"]
        weights = train.weight.copy()
        weights[rows] = weight
        return replace(data, parts={**data.parts, "train": replace(train, weight=weights)})

    return changed


def one_epoch(
    path: Path, changed: Callable[[TrainingData], TrainingData], other_query: bool = False
) -> Trainer:
    """Train for an epoch; the query of the first pair may be exchanged for another."""
    trainer = trainer_at(path, changed)
    if other_query:
        trainer.pairs.query[0] = trainer.pairs.query[9]
    trainer.fit(Watcher())
    return trainer


def test_the_query_of_a_pair_of_no_weight_teaches_nothing(toml: Callable[..., Path]) -> None:
    path = toml(loss={"hard_negatives": 0}, epochs=1)
    for weight, same in ((0.0, True), (1.0, False)):
        one, other = (weights(one_epoch(path, weighted([0], weight), each)) for each in (False, True))
        assert all(torch.allclose(*each, atol=1e-5) for each in zip(one, other, strict=True)) == same


def test_a_weight_counts_beside_the_others_of_its_batch(toml: Callable[..., Path]) -> None:
    path = toml(epochs=1)
    whole: tuple[Any, ...] = ([], slice(None), slice(0, 100))
    plain, doubled, uneven = (one_epoch(path, weighted(rows, 2.0)) for rows in whole)
    for one, other in zip(weights(plain), weights(doubled), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not all(map(torch.equal, weights(plain), weights(uneven)))


def test_a_batch_without_any_weight_leaves_the_towers_sound(toml: Callable[..., Path]) -> None:
    trainer = one_epoch(toml(epochs=1), weighted(slice(None), 0.0))
    assert all(value.isfinite().all() for value in weights(trainer))
    assert set(trainer.state.losses) == {0.0}


def test_temperature_and_gamma_reach_the_loss(toml: Callable[..., Path]) -> None:
    for sections, key in ((PLAIN, "temperature"), (DSSM, "gamma")):
        losses = []
        for value in (0.5, 5.0):
            trainer = trainer_at(toml(sections, {key: value}, epochs=1))
            trainer.fit(Watcher())
            losses.append(trainer.state.losses[0])
        assert losses[0] != losses[1]
