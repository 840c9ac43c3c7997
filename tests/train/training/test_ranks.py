"""Two real processes train as one does: the same loss, gradients, negatives, vectors and stops."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.emulated_device import NO_ROOM
from tests.helpers.people import both_sides, data_of_people, dated, random_people, schema_of_people
from tests.helpers.rank_pair import LONGEST, on_two_ranks
from tests.train.losses.test_objective import IN_BATCH, ITEMS, LOSSES
from tests.train.training.test_trainer import Watcher, weights
from twinspire.protos.errors import ConfigError, Unavailable
from twinspire.protos.features import CategoryFeature, Schema, TextFeature
from twinspire.train.config.history_towers import ComirecTower, SequenceTower
from twinspire.train.config.losses import Bce, FullSoftmax, LossConfig
from twinspire.train.config.towers import BagTower, ClicksTower, TowerConfig
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.evaluation import exact_search
from twinspire.train.evaluation.exact_search import BLOCK
from twinspire.train.losses.hard_negatives import mine_hard_negatives
from twinspire.train.models import encoders
from twinspire.train.models.encoders import ROWS_FROM, HashedTextEncoder
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.training.checkpoint import load_run, start_alike
from twinspire.train.training.process import SINGLE_PROCESS, Rank, TrainingProcess, joined
from twinspire.train.training.trainer import Interrupted, Trainer

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(LONGEST + 60)]

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
LABELS = Bce("bce")
AS_ROWS = 1  # tables of any size exchange rows
Made = Callable[[TrainingProcess], Trainer]
ROWS = pytest.mark.parametrize("rows_from", [AS_ROWS, ROWS_FROM], ids=["rows", "dense"])


BAG = BagTower("bag", 8, 0, buckets=256, item_hidden=4)
CLICKS = ClicksTower("clicks", dimension=6, dropout=0.0, buckets=256, characters=())
INTERESTS = ComirecTower("comirec", interests=3, dimension=8, hidden=6, input_dropout=0.0, buckets=64)
AGES = SequenceTower(
    "sequence", dimension=8, buckets=64, dropout=0.0, input_dropout=0.0, ages=True, age_dropout=0.0
)


def of_texts(
    loss: LossConfig,
    config: TowerConfig = BAG,
    batch_size: int = 13,
    process: TrainingProcess = SINGLE_PROCESS,
    seed: int = 0,
) -> Trainer:
    """Pairs of texts and weights; a batch of the last pairs has fewer than the others."""
    words = "red green blue small large round flat old new".split()
    text = [f"{words[n % 9]} {words[n % 7]} thing number {n}" for n in range(ITEMS + 5)]
    items = {"text": text[:ITEMS], "kind": ["odd" if n % 2 else "even" for n in range(ITEMS)]}
    query, item = np.arange(38) % 20, np.arange(38) % ITEMS
    label = (np.arange(38) % 3 > 0).astype(np.float32) if loss is LABELS else None
    pairs = Pairs(query, item, np.linspace(0.5, 2, 38, dtype=np.float32), label)
    parts = dict.fromkeys(("train", "validation", "test"), pairs)
    data = TrainingData({"text": text}, items, parts, 20, ITEMS)
    prepared = both_sides(TEXTS, data, config)
    torch.manual_seed(seed)
    towers = architecture_of(config).build(TEXTS)
    training = TrainingConfig(epochs=2, batch_size=batch_size)
    return Trainer(towers, data, prepared, loss, training, process=process)


def of_people(
    loss: LossConfig,
    history: str = "attention",
    batch_size: int = 14,
    config: TowerConfig | None = None,
    process: TrainingProcess = SINGLE_PROCESS,
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
    prepared = both_sides(schema, data, config)
    training = TrainingConfig(epochs=2, batch_size=batch_size)
    windows = not isinstance(config, ClicksTower)  # which pools rows
    return Trainer(towers, data, prepared, loss, training, windows, process)


def in_doubles(trainer: Trainer) -> Trainer:
    modules = [module for tower in trainer.towers for module in tower.modules()]
    weights = {module.weights for module in modules if isinstance(module, HashedTextEncoder)}
    for each in {*parameters(trainer), *weights}:
        each.data = each.data.double()
    trainer.process.begin(trainer.towers, trainer.optimiser)
    return trainer


def parameters(trainer: Trainer) -> list[torch.Tensor]:
    return [each for group in trainer.optimiser.param_groups for each in group["params"]]


def own_rows(trainer: Trainer, parameter: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Of a parameter of one process, what a rank's has: of a table that is split, its rows."""
    process = trainer.process
    is_split = len(parameter) < len(whole) if whole.ndim > 1 else False
    return whole[process.rank :: process.count] if is_split else whole


def same_steps(process: Rank, made: Made) -> None:
    """Loss and gradients of each step of two ranks are those of one process, from the same weights.

    In double precision: sums in another order differ by more than 1e-6 where a small temperature makes
    gradients large.
    """
    one, two = in_doubles(made(SINGLE_PROCESS)), in_doubles(made(process))
    start_alike(two)
    assert any(process.tables) == (encoders.ROWS_FROM == AS_ROWS)
    for each in (one, two):
        each.state.hard_negatives = each._mined()
    if one.state.hard_negatives is not None:
        np.testing.assert_array_equal(two.state.hard_negatives, one.state.hard_negatives)
    one._steps, batches = one._batches()
    two._steps = one._steps
    for batch in batches:
        for ours, theirs in zip(parameters(two), parameters(one), strict=True):
            ours.detach().copy_(own_rows(two, ours, theirs.detach()))
        for each in (one, two):
            each._train_on(batch)
        assert two.state.losses[-1] == pytest.approx(one.state.losses[-1], rel=1e-6, abs=1e-6)
        for ours, theirs in zip(parameters(two), parameters(one), strict=True):
            assert (ours.grad is None) == (theirs.grad is None)
            if ours.grad is not None and theirs.grad is not None:
                grad = own_rows(two, ours, theirs.grad.to_dense())
                torch.testing.assert_close(ours.grad.to_dense(), grad, rtol=1e-6, atol=1e-6)
    assert two.state.step == two._steps > 1


def each_the_same(process: Rank, rows_from: str, made: dict[str, Made]) -> None:
    encoders.ROWS_FROM = int(rows_from)
    several = Rank(process.rank, process.count)
    for name, trainer in made.items():
        try:
            same_steps(several, trainer)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def check_losses(process: Rank, rows_from: str) -> None:
    made: dict[str, Made] = {}
    for name, loss in CASES.items():
        made[f"{name}, texts"] = lambda process, loss=loss: of_texts(loss, process=process)  # type: ignore[misc]
        made[f"{name}, people"] = lambda process, loss=loss: of_people(loss, process=process)  # type: ignore[misc]
    made["labels, bag"] = lambda process: of_texts(LABELS, BAG, process=process)
    made["labels, clicks"] = lambda process: of_texts(LABELS, CLICKS, process=process)
    each_the_same(process, rows_from, made)


@ROWS
def test_loss_and_gradients_of_two_ranks_are_those_of_one_for_every_loss(rows_from: int) -> None:
    on_two_ranks(check_losses, rows_from)


def check_towers(process: Rank, rows_from: str) -> None:
    made: dict[str, Made] = {}
    for name, loss in CASES.items():
        made[f"{name}, several vectors"] = lambda process, loss=loss: of_people(  # type: ignore[misc]
            loss, config=INTERESTS, process=process
        )
    for loss in (FullSoftmax("full_softmax"), IN_BATCH):
        made[f"{loss.kind}, ages"] = lambda process, loss=loss: of_people(  # type: ignore[misc]
            loss, config=AGES, process=process
        )
    made["clicks"] = lambda process: of_people(FullSoftmax("full_softmax"), config=CLICKS, process=process)
    for history in ("sum", "attention"):
        made[f"few windows, {history}"] = lambda process, history=history: of_people(  # type: ignore[misc]
            IN_BATCH, history, batch_size=2, process=process
        )
    each_the_same(process, rows_from, made)


@ROWS
def test_two_ranks_train_towers_of_histories_as_one_does(rows_from: int) -> None:
    """Several vectors of a query, ages of events, clicks, and steps whose only window is another rank's."""
    for history in ("sum", "attention"):
        _, batches = of_people(IN_BATCH, history, batch_size=2)._batches()
        assert {len(batch.share(1, 2)[0].queries) for batch in batches} >= {0}
    on_two_ranks(check_towers, rows_from)


def check_training(process: Rank) -> None:
    """From evaluation to evaluation: what is mined, the steps, Adam's counters; alike on both ranks.

    Queries are encoded in three blocks, of which rank 1 has one.
    """
    exact_search.BLOCK = 9
    loss = replace(IN_BATCH, hard_negatives=2, mine_from=5)
    for rows_from in (AS_ROWS, ROWS_FROM):
        encoders.ROWS_FROM = rows_from
        several = Rank(process.rank, process.count)
        one, both = of_texts(loss), of_texts(loss, process=several)
        start_alike(both)
        assert any(several.tables) == (rows_from == AS_ROWS)
        one.fit(Watcher())
        both.fit(Watcher())
        assert both.state.losses == pytest.approx(one.state.losses, rel=1e-4)
        for ours, theirs in zip(parameters(both), parameters(one), strict=True):
            torch.testing.assert_close(ours, own_rows(both, ours, theirs), rtol=1e-3, atol=1e-4)
            if process.rank == 0:
                assert ours.shape == theirs.shape
            assert both.optimiser.state[ours]["step"] == one.optimiser.state[theirs]["step"] == 2 * one._steps
        for ours, theirs in zip(weights(both), process.from_rank_0(weights(both)), strict=True):
            assert torch.equal(ours, own_rows(both, ours, theirs))


class VectorsOfTheBest(Watcher):
    """Keeps vectors of queries by the best towers; of two ranks, each encodes about half of them."""

    def on_best(self, trainer: Trainer) -> None:
        super().on_best(trainer)
        many = np.resize(np.arange(len(trainer.queries)), 3 * BLOCK + 5)
        self.vectors = trainer.query_vectors(many)


def check_averages(process: Rank, rows_from: str) -> None:
    """In double precision, from start to end; they evaluate the averages, and train on without them."""
    encoders.ROWS_FROM = int(rows_from)
    one, both = (in_doubles(of_people(CASES["full"], process=each)) for each in (SINGLE_PROCESS, process))
    watchers = VectorsOfTheBest(), VectorsOfTheBest()
    start_alike(both)
    assert any(process.tables) == (encoders.ROWS_FROM == AS_ROWS)
    for each, watcher in zip((one, both), watchers, strict=True):
        each.config = replace(each.config, epochs=10, patience=10, average_epochs=1.0)
        each.fit(watcher)
    np.testing.assert_allclose(both.state.losses, one.state.losses, 1e-6, 1e-6)
    assert both.state.best_epoch == one.state.best_epoch > 0
    torch.testing.assert_close(watchers[1].vectors, watchers[0].vectors, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(parameters(both), parameters(one), strict=True):
        torch.testing.assert_close(ours, own_rows(both, ours, theirs), rtol=1e-5, atol=1e-6)
        average = one.optimiser.state[theirs]["average"]
        assert not torch.equal(average, theirs)
        found = both.optimiser.state[ours]["average"]  # of a table, also on rank 0 those of its rows
        torch.testing.assert_close(found, own_rows(both, found, average), rtol=1e-5, atol=1e-6)


@ROWS
def test_two_ranks_average_the_weights_as_one_process_does(rows_from: int) -> None:
    on_two_ranks(check_averages, rows_from)


def check_shares(process: Rank) -> None:
    """Vectors that are encoded in shares are bit for bit those of one process."""
    one, two = of_people(IN_BATCH), of_people(IN_BATCH, process=process)
    many = np.resize(np.arange(len(one.queries)), 3 * BLOCK + 5)  # two blocks for each rank
    for side, rows in ((0, many), (1, np.array([3, 1, 2]))):
        ours, theirs = (
            each.process.encode_all(each.towers[side], (each.queries, each.items)[side], rows)
            for each in (two, one)
        )
        assert torch.equal(ours, theirs)
    assert process.sum(np.array([process.rank, 1])).tolist() == [1, 2]


def check_start(process: Rank) -> None:
    trainer = of_texts(IN_BATCH, process=process, seed=process.rank)
    own = weights(trainer)
    trainer.state.losses = [float(process.rank)]
    trainer.state.hard_negatives = np.array([[process.rank]])
    of_rank_0 = process.from_rank_0(own)
    assert all(map(torch.equal, own, of_rank_0)) == (process.rank == 0)
    start_alike(trainer)
    assert all(map(torch.equal, weights(trainer), of_rank_0))
    assert trainer.state.losses == [0.0]
    assert trainer.state.hard_negatives.tolist() == [[0]]


def check_stop(process: Rank) -> None:
    trainer = of_texts(IN_BATCH, process=process)
    with pytest.raises(Interrupted):
        trainer.fit(Watcher(stop_after=2 if process.rank == 0 else -1))
    assert trainer.state.step == 2


def check_resumed(process: Rank) -> None:
    """A run whose tables are split goes on from a checkpoint: on two ranks to the same bits."""
    encoders.ROWS_FROM = AS_ROWS
    averaged = replace(TrainingConfig(), epochs=2, batch_size=13, average_epochs=0.5)

    def begun(process: TrainingProcess, file: Path | None = None) -> Trainer:
        trainer = of_texts(IN_BATCH, process=process, seed=process.rank)
        trainer.config = averaged
        if file is not None and process.rank == 0:
            load_run(file, trainer)
        start_alike(trainer)
        return trainer

    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "run.pt")  # of rank 0
        straight, broken = begun(process), begun(several := Rank(process.rank, process.count))
        with pytest.raises(Interrupted):
            broken.fit(Watcher(file if process.rank == 0 else None, stop_after=2))
        assert any(several.tables)
        whole = Watcher()
        straight.fit(whole)
        again = begun(Rank(process.rank, process.count), file)
        at_end = Path(name, "end.pt")
        again.fit(Watcher(at_end if process.rank == 0 else None))
        assert again.state.losses == straight.state.losses
        assert all(map(torch.equal, weights(again), weights(straight)))
        ended = begun(Rank(process.rank, process.count), at_end)
        ended.fit(Watcher())  # which takes no step
        begun(Rank(process.rank, process.count)).refit(Watcher(), epochs=0)
        if process.rank == 0:
            assert all(map(torch.equal, weights(ended), weights(straight)))
        if process.rank == 0:
            alone = begun(SINGLE_PROCESS, file)
            alone.fit(watcher := Watcher())
            assert alone.state.losses == pytest.approx(straight.state.losses, rel=1e-4)
            for found in ((weights(straight), weights(alone)), (whole.kept, watcher.kept)):
                for ours, theirs in zip(*found, strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("check", [check_training, check_shares, check_start, check_stop, check_resumed])
def test_two_ranks_start_train_and_stop_as_one_process_does(check: Callable[[Rank], None]) -> None:
    on_two_ranks(check)


def test_shares_of_mining_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinspire.train.losses.hard_negatives._BLOCK", 4)
    trainer = of_texts(replace(IN_BATCH, hard_negatives=2, mine_from=5))
    queries, items = trainer.query_vectors(), trainer.item_vectors()
    objective = trainer.objective

    def mined(rank: int, count: int) -> Any:
        return mine_hard_negatives(
            queries, items, objective.pairs, objective.positives, 2, 5, (0, 1), share=(rank, count)
        )

    whole, shares = mined(0, 1), [mined(n, 3) for n in range(3)]
    assert (np.stack(shares) > 0).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(sum(shares), whole)


def test_dropout_of_each_rank_is_its_own_and_that_of_rank_0_as_in_one_process() -> None:
    Rank(0, 2).seed(2**63 - 1)
    first = torch.rand(4)
    torch.manual_seed(2**63 - 1)
    assert torch.equal(first, torch.rand(4))
    Rank(1, 2).seed(2**63 - 1)
    assert not torch.equal(first, torch.rand(4))


COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"MASTER_ADDR": ""},
            "MASTER_ADDR: not set, but WORLD_SIZE is 2; a launcher such as torchrun sets RANK,",
        ),
        ({"RANK": "two"}, "RANK: expected a whole number from 0 on, got 'two'"),
        ({"RANK": "2"}, "RANK: expected a number below WORLD_SIZE, which is 2, got 2"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: expected a whole number from 1 on, got '0'"),
    ],
)
def test_an_environment_that_is_wrong_is_said(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str
) -> None:
    for name, value in {**COMPLETE, **changed}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said), joined(TrainingConfig()):
        pytest.fail("it has joined")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_several_ranks_train_on_the_cpu_alone(monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    said = (
        f'training.device: "{device}" trains with one process, not with 2 ranks, which train on the CPU; use '
        '"cpu" or "auto", or one rank'
    )
    with pytest.raises(ConfigError, match=said), joined(TrainingConfig(device=device)):
        pytest.fail("it has joined")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError(NO_ROOM), "rank 0 of 2: cpu .* too little memory: CUDA .* try a smaller"),
        (
            RuntimeError("[pair.cc in gloo] closed"),
            "rank 0 of 2: the connection .* is lost.*; `again` goes on",
        ),
    ],
)
def test_an_error_of_a_rank_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError, said: str
) -> None:
    for name, value in {**COMPLETE, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("twinspire.train.training.process._join_group", lambda *_: None)
    with pytest.raises(Unavailable, match=said), joined(TrainingConfig(threads=1), "again"):
        raise error
