"""Two real processes train as one does: the same loss, gradients, negatives and vectors; and end together."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protos.errors import Unavailable
from protos.features import CategoryFeature, Schema, TextFeature
from tests.helpers.people import data_of_people, dated, random_people, schema_of_people
from tests.train.losses.test_objective import IN_BATCH, ITEMS, LOSSES
from tests.train.training.test_trainer import Watcher
from train.config import LossConfig, TowerConfig, TrainingConfig
from train.config.history_towers import ComirecTower
from train.config.losses import Bce, FullSoftmax
from train.config.towers import BagTower, ClicksTower, SequenceTower
from train.data.training_data import Pairs, TrainingData
from train.evaluation.exact_search import BLOCK
from train.losses.hard_negatives import mine_hard_negatives
from train.models.encoders import HashedTextEncoder
from train.models.prepared_inputs import PreparedInputs
from train.models.tower_factory import architecture_of
from train.training import ranks as rank
from train.training.device import TrainingProcess
from train.training.rank_processes import Ranks
from train.training.trainer import Trainer, _as_tensor

pytestmark = pytest.mark.exhaustive

TEXT = TextFeature("text", "text")
TEXTS = Schema(
    {"text": TEXT},
    {"text": TEXT, "kind": CategoryFeature("category", "kind")},
    {"item.kind": ("odd", "even")},
)
CASES: dict[str, LossConfig] = {
    **LOSSES,
    "in batch, logq": replace(IN_BATCH, correction="logq"),
    "in batch, mixed, logq": replace(IN_BATCH, correction="logq", uniform_negatives=4),
}
LABELS = Bce("bce", negatives=0)
AS_ROWS = 1  # tables of any size exchange rows
Made = Callable[[], Trainer]


BAG = BagTower("bag", 8, 0, buckets=256, item_hidden=4)
CLICKS = ClicksTower("clicks", dimension=6, dropout=0.0, buckets=256, characters=())
INTERESTS = ComirecTower("comirec", interests=3, dimension=8, hidden=6, input_dropout=0.0, buckets=64)
AGES = SequenceTower(
    "sequence", dimension=8, buckets=64, dropout=0.0, input_dropout=0.0, ages=True, age_dropout=0.0
)


def of_texts(loss: LossConfig, config: TowerConfig = BAG, batch_size: int = 13) -> Trainer:
    """Pairs of texts and weights; a batch of the last pairs has fewer than the others."""
    words = "red green blue small large round flat old new".split()
    text = [f"{words[n % 9]} {words[n % 7]} thing number {n}" for n in range(ITEMS + 5)]
    items = {"text": text[:ITEMS], "kind": ["odd" if n % 2 else "even" for n in range(ITEMS)]}
    query, item = np.arange(38) % 20, np.arange(38) % ITEMS
    label = (np.arange(38) % 3 > 0).astype(np.float32) if loss is LABELS else None
    pairs = Pairs(query, item, np.linspace(0.5, 2, 38, dtype=np.float32), label)
    parts = dict.fromkeys(("train", "validation", "test"), pairs)
    data = TrainingData({"text": text}, items, parts, 20, ITEMS)
    hashing = architecture_of(config).hashing()
    prepared = (
        PreparedInputs(TEXTS, "query", data.queries, hashing),
        PreparedInputs(TEXTS, "item", data.items, hashing),
    )
    torch.manual_seed(0)
    towers = architecture_of(config).build(TEXTS)
    return Trainer(towers, data, prepared, loss, TrainingConfig(epochs=2, batch_size=batch_size))


def of_people(
    loss: LossConfig, history: str = "attention", batch_size: int = 14, config: TowerConfig | None = None
) -> Trainer:
    """Histories, of which several queries share a window; no dropout."""
    data = data_of_people(random_people(9, ITEMS), ITEMS)
    reads_ages = isinstance(config, SequenceTower) and config.ages
    schema = schema_of_people(ITEMS, max_length=6, times=reads_ages)
    if reads_ages:
        data = dated(data)
    without: dict[str, Any] = {"dropout": 0.0, "input_dropout": 0.0} if history == "attention" else {}
    if config is None:
        config = SequenceTower("sequence", history=history, dimension=8, buckets=64, **without)  # type: ignore[arg-type]
    torch.manual_seed(0)
    towers = architecture_of(config).build(schema)
    hashing = architecture_of(config).hashing()
    prepared = (
        PreparedInputs(schema, "query", data.queries, hashing),
        PreparedInputs(schema, "item", data.items, hashing),
    )
    training = TrainingConfig(epochs=2, batch_size=batch_size)
    windows = not isinstance(config, ClicksTower)  # which pools rows
    return Trainer(towers, data, prepared, loss, training, shared_windows=windows)


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with Ranks(2, 1).started() as started:
        yield started
    torch.set_num_threads(threads)


def in_doubles(trainer: Trainer) -> Trainer:
    modules = [module for tower in trainer.towers for module in tower.modules()]
    weights = {module.weights for module in modules if isinstance(module, HashedTextEncoder)}
    for each in {*parameters(trainer), *weights}:
        each.data = each.data.double()
    return trainer


def parameters(trainer: Trainer) -> list[torch.Tensor]:
    return [each for group in trainer.optimiser.param_groups for each in group["params"]]


def an_epoch_is_the_same(ranks: Ranks, made: Made, rows_from: int) -> None:
    """Loss and gradients of each step of two ranks are those of one process, from the same weights.

    In double precision: sums in another order differ by more than 1e-6 where a small temperature makes
    gradients large.
    """
    one, two = in_doubles(made()), in_doubles(made())
    with ranks.training(two, rows_from):
        for each in (one, two):
            each.state.hard_negatives = each._mined()
            each.process.lead("begin_epoch", 0, 0, _as_tensor(each.state.hard_negatives))
            each._draw_batches()
        if one.state.hard_negatives is not None:
            np.testing.assert_array_equal(two.state.hard_negatives, one.state.hard_negatives)
        while one.state.step < one._steps:
            for ours, theirs in zip(parameters(two), parameters(one), strict=True):
                ours.detach().copy_(theirs.detach())
                for moment in ("exp_avg", "exp_avg_sq"):
                    two.optimiser.state[ours][moment].zero_()
            two.process.lead("next_step")
            two.next_step()
            one.next_step()
            assert two.state.losses[-1] == pytest.approx(one.state.losses[-1], rel=1e-6, abs=1e-6)
            for ours, theirs in zip(parameters(two), parameters(one), strict=True):
                # Adam's first moment was 0, so it is a tenth of the gradient.
                found = 10 * two.optimiser.state[ours]["exp_avg"]
                expected = torch.zeros_like(found) if theirs.grad is None else theirs.grad
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        assert two.state.step == two._steps > 1


@pytest.mark.parametrize("rows_from", [AS_ROWS, rank.ROWS_FROM], ids=["rows", "dense"])
def test_loss_and_gradients_of_two_ranks_are_those_of_one_for_every_loss(two: Ranks, rows_from: int) -> None:
    for name, loss in CASES.items():
        for made in (of_texts, of_people):
            try:
                an_epoch_is_the_same(two, lambda loss=loss, made=made: made(loss), rows_from)  # type: ignore[misc]
            except AssertionError as error:
                raise AssertionError(f"{name}, {made.__name__}: {error}") from error
    for config in (BAG, CLICKS):
        an_epoch_is_the_same(two, lambda config=config: of_texts(LABELS, config), rows_from)  # type: ignore[misc]


@pytest.mark.parametrize("rows_from", [AS_ROWS, rank.ROWS_FROM], ids=["rows", "dense"])
def test_two_ranks_train_queries_of_several_vectors_as_one_does(two: Ranks, rows_from: int) -> None:
    for name, loss in CASES.items():
        try:
            an_epoch_is_the_same(two, lambda loss=loss: of_people(loss, config=INTERESTS), rows_from)  # type: ignore[misc]
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.parametrize("rows_from", [AS_ROWS, rank.ROWS_FROM], ids=["rows", "dense"])
def test_two_ranks_train_with_the_ages_of_events_as_one_does(two: Ranks, rows_from: int) -> None:
    for loss in (FullSoftmax("full_softmax"), IN_BATCH):
        an_epoch_is_the_same(two, lambda loss=loss: of_people(loss, config=AGES), rows_from)  # type: ignore[misc]


@pytest.mark.parametrize("rows_from", [AS_ROWS, rank.ROWS_FROM], ids=["rows", "dense"])
def test_two_ranks_train_towers_of_clicks_as_one_does(two: Ranks, rows_from: int) -> None:
    for loss in (FullSoftmax("full_softmax"), Bce("bce", negatives=2)):
        an_epoch_is_the_same(two, lambda loss=loss: of_people(loss, config=CLICKS), rows_from)  # type: ignore[misc]


def test_shared_memory_has_room_for_all_vectors_of_the_queries() -> None:
    trainer = of_people(FullSoftmax("full_softmax"), config=INTERESTS)
    queries, items = trainer.query_vectors(), trainer.item_vectors()
    assert queries.shape[1] == 3 * items.shape[1]
    assert rank._vectors_bytes(trainer) == queries.nbytes + 2 * items.nbytes


@pytest.mark.parametrize("history", ["sum", "attention"])
def test_a_step_whose_only_window_belongs_to_another_rank(two: Ranks, history: str) -> None:
    def made() -> Trainer:
        return of_people(IN_BATCH, history, batch_size=2)

    _, batches = made()._batches()
    assert {len(batch.share(1, 2)[0].queries) for batch in batches} >= {0}
    an_epoch_is_the_same(two, made, AS_ROWS)


def test_a_training_ends_with_the_towers_of_one_process(two: Ranks) -> None:
    """From evaluation to evaluation: what is mined, the steps, Adam's moments and counters."""
    loss = replace(IN_BATCH, hard_negatives=2, mine_from=5)
    for rows_from in (AS_ROWS, rank.ROWS_FROM):
        one, both = of_texts(loss), of_texts(loss)
        one.fit(Watcher())
        with two.training(both, rows_from):
            both.fit(Watcher())
        assert both.state.losses == pytest.approx(one.state.losses, rel=1e-4)
        for ours, theirs in zip(parameters(both), parameters(one), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
            assert both.optimiser.state[ours]["step"] == one.optimiser.state[theirs]["step"] == 2 * one._steps
        both._step(next(iter(both._batches()[1])))  # and then it is one process again


class VectorsOfTheBest(Watcher):
    """Keeps vectors of queries by the best towers; of two ranks, each encodes about half of them."""

    def on_best(self, trainer: Trainer) -> None:
        super().on_best(trainer)
        many = np.resize(np.arange(len(trainer.queries)), 3 * BLOCK + 5)
        self.vectors = trainer._vectors(0, many)


def averaged_weights_are_those_of_one_process(ranks: Ranks, made: Made) -> None:
    """In double precision, from start to end; all ranks evaluate the averages, and train on without them."""
    one, both = (in_doubles(made()) for _ in range(2))
    watchers = VectorsOfTheBest(), VectorsOfTheBest()
    for each in (one, both):
        each.config = replace(each.config, epochs=10, patience=10, average_epochs=1.0)
    one.fit(watchers[0])
    with ranks.training(both):
        both.fit(watchers[1])
    np.testing.assert_allclose(both.state.losses, one.state.losses, 1e-6, 1e-6)
    assert both.state.best_epoch == one.state.best_epoch > 0
    torch.testing.assert_close(watchers[1].vectors, watchers[0].vectors, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(parameters(both), parameters(one), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        average = one.optimiser.state[theirs]["average"]
        torch.testing.assert_close(both.optimiser.state[ours]["average"], average, rtol=1e-5, atol=1e-6)
        assert not torch.equal(average, theirs)


def test_two_ranks_average_the_weights_as_one_process_does(two: Ranks) -> None:
    averaged_weights_are_those_of_one_process(two, lambda: of_people(CASES["full"]))


def test_vectors_encoded_in_shares_are_bit_for_bit_those_of_one_process(two: Ranks) -> None:
    trainer = of_people(IN_BATCH)
    many = np.resize(np.arange(len(trainer.queries)), 3 * BLOCK + 5)  # two blocks for each rank
    expected = trainer._vectors(0, many), trainer._vectors(1, np.array([3, 1, 2]))
    with two.training(trainer):
        found = trainer._vectors(0, many), trainer._vectors(1, np.array([3, 1, 2]))
    assert all(map(torch.equal, found, expected))


def test_shares_of_mining_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.losses.hard_negatives._BLOCK", 4)
    trainer = of_texts(replace(IN_BATCH, hard_negatives=2, mine_from=5))
    queries, items = trainer._all_vectors()
    objective = trainer.objective

    def mined(rank: int, count: int) -> Any:
        return mine_hard_negatives(
            queries, items, objective.pairs, objective.positives, 2, 5, (0, 1), share=(rank, count)
        )

    whole, shares = mined(0, 1), [mined(n, 3) for n in range(3)]
    assert (np.stack(shares) > 0).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(sum(shares), whole)


def test_dropout_of_each_rank_is_its_own_and_that_of_rank_0_as_in_one_process(
    two: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = of_texts(IN_BATCH)
    with two.training(trainer):
        leader = trainer.process
        leader.seed(2**63 - 1)
        first = torch.rand(4)
        torch.manual_seed(2**63 - 1)
        assert torch.equal(first, torch.rand(4))
        seeded: list[int] = []
        monkeypatch.setattr(torch, "manual_seed", seeded.append)  # it seeds devices that are not in use, too
        leader.seed(2**63 - 1)
        assert torch.equal(first, torch.rand(4))
        TrainingProcess(torch.device("meta")).seed(7)
        assert seeded == [7]
        other = object.__new__(rank.Rank)
        other.rank, other.device = 1, leader.device
        other.seed(2**63 - 1)
        assert not torch.equal(first, torch.rand(4))


def test_too_little_shared_memory_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 1, 1024

    monkeypatch.setattr("train.training.ranks.os.statvfs", lambda path: Full)
    monkeypatch.setattr("train.training.ranks.SHARED_MEMORY", Path("/"))
    expected = r"vectors need 2 MiB of shared memory, 0 MiB are free; in Docker, --shm-size"
    with pytest.raises(Unavailable, match=expected):
        rank.share_memory(of_texts(IN_BATCH))
