"""One module knows the device and the processes; trainer, callbacks and run go through it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from protos.features import SIDES
from tests.helpers.people import data_of_people, random_people, schema_of_people
from tests.train.losses.test_objective import (
    IN_BATCH,
    ITEMS,
    LOSSES,
    batches_and_candidates,
    data_of_pairs,
    pairs_of,
)
from tests.train.models.test_tower_factory import KINDS, SCHEMAS, built, inputs
from tests.train.training.test_checkpoint import BAG, SCHEMA, trainer_of
from train.config.losses import Bce
from train.config.towers import SequenceTower, SharedTower
from train.data.batches import HistoryBatches
from train.losses.objective import build_objective
from train.models.encoders import TextBags
from train.models.prepared_inputs import PreparedHistories
from train.models.tower_factory import build_towers
from train.paths import ROOT
from train.training.callbacks import RunCallbacks
from train.training.device import SINGLE_PROCESS, TrainingProcess, start_process
from train.training.trainer import Trainer

ELSEWHERE = TrainingProcess(torch.device("meta"))  # a device that stores no values


class OnOneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where torch computes with, or makes, a tensor in main memory, other than to move it elsewhere."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        if func is torch.ops.aten.lift_fresh.default:  # an array becomes a tensor, to be moved
            return result
        moved = [] if func is torch.ops.aten._to_copy.default else [args, given]
        for each in tree_leaves([*moved, result]):
            # A tensor of no dimension is a constant of a formula, which torch moves itself.
            assert not isinstance(each, Tensor) or each.is_meta or not each.ndim, f"{func}: {each.shape}"
        return result


class Counting(TrainingProcess):
    """Counts the records that the trainer has encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[int] = []

    def encode(self, tower: Any, rows: Any, read: Any, for_all: bool = False) -> torch.Tensor:
        self.encoded.append(len(rows))
        return super().encode(tower, rows, read, for_all)


class Second(TrainingProcess):
    """The second of two processes."""

    rank = 1


def test_a_run_has_the_threads_that_its_experiment_asks_for() -> None:
    before = torch.get_num_threads()
    try:
        assert start_process(2) is SINGLE_PROCESS
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_batch_is_placed_whole() -> None:
    bags = TextBags(torch.zeros(3, dtype=torch.int32), torch.ones(3), torch.zeros(2, dtype=torch.int32))
    placed: dict[str, Any] = ELSEWHERE.place({"text": bags, "age": torch.zeros(2, 1)})
    assert {each.device.type for each in vars(placed["text"]).values()} == {"meta"}
    assert placed["age"].device.type == "meta"
    trainer = trainer_of(BAG, 0)
    given = trainer.objective.candidates(next(iter(trainer._batches()[1])), None, np.random.default_rng(0))
    moved = ELSEWHERE.place(given)
    assert moved.positive.device.type == "meta"
    assert moved.items is given.items  # an array, which indexes records in main memory


def test_towers_that_share_a_buffer_share_it_on_the_device() -> None:
    towers = build_towers(SharedTower("shared", dimension=8, hidden=(8,), buckets=64), SCHEMA)
    ELSEWHERE.place_towers(towers)
    query, item = (tower.head.radius for tower in towers)
    assert query is item
    assert query.device.type == "meta"
    assert {value.device.type for tower in towers for value in tower.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("kind", [*LOSSES, "logq", "labels"])
def test_a_loss_computes_on_the_device_of_its_scores(kind: str) -> None:
    loss = LOSSES.get(kind, Bce("bce", negatives=0))
    data = data_of_people(random_people(25, ITEMS), ITEMS)
    if kind == "logq":
        loss = replace(IN_BATCH, correction="logq")
    if kind == "labels":
        data = data_of_pairs(pairs_of([(n % 3, n) for n in range(8)], [1.0, 0.0] * 4))
    objective = build_objective(loss, data)
    for batch, candidates in batches_and_candidates(objective, data):
        scores = torch.zeros(len(batch.queries), len(candidates.items), device="meta", requires_grad=True)
        placed = ELSEWHERE.place(candidates)
        with OnOneDevice():
            losses = objective.losses(scores, batch, placed)
            losses.sum().backward()  # type: ignore[no-untyped-call]
        assert losses.shape == (len(batch.pairs),)
        assert losses.is_meta


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tower_computes_on_the_device_of_its_inputs(kind: str, schema: str) -> None:
    if "latent" in kind and schema not in ("ids", "everything"):
        return  # the configuration refuses it
    if kind == "cdssm" and schema != "ids":
        pytest.skip("how many words a text has is read from values, which a meta tensor does not have")
    towers = built(kind, schema)
    ELSEWHERE.place_towers(towers)
    for tower, side in zip(towers, SIDES, strict=True):
        placed = ELSEWHERE.place(inputs(schema, side))
        for training in (False, True):
            tower.train(training)
            with OnOneDevice():
                vectors = tower(placed)
            assert vectors.is_meta


def test_dropout_and_windows_of_histories_stay_on_the_device() -> None:
    """Such as training uses, beside the towers of `KINDS`."""
    sequence: dict[str, Any] = {
        "dimension": 8,
        "buckets": 64,
        "history_dropout": 0.5,
        "id_dropout": 0.5,
        "newcomers": "learned",
    }
    schema = schema_of_people(ITEMS, max_length=10)
    data = data_of_people(random_people(25, ITEMS), ITEMS)
    assert data.histories is not None
    histories = PreparedHistories(data.histories, data.item_ids, 10)
    for history in ("attention", "mean", "sum"):
        towers = build_towers(SequenceTower("sequence", history=history, **sequence), schema)
        ELSEWHERE.place_towers(towers)
        for batch in HistoryBatches(data.parts["train"], histories, 8, shared=True).draw((0, 0)):
            assert batch.spans is not None
            windows = ELSEWHERE.place(histories.windows(batch.spans))
            ids = torch.zeros(len(batch.queries), 1, dtype=torch.int64, device="meta")
            with OnOneDevice():
                assert towers[0].train()({"history": windows}).is_meta
                assert towers[1].train()({"id": ids}).is_meta


def test_each_step_encodes_its_queries_and_candidates_through_the_process() -> None:
    trainer, process = trainer_of(BAG, 0), Counting()
    trainer.process = process
    _, batches = trainer._batches()
    for batch in batches:
        trainer._step(batch)
    assert process.encoded == [4, 4, 4, 4]  # queries and items of two batches


def test_only_the_main_process_writes(tmp_path: Path, console: Console, store: str) -> None:
    trainer: Trainer = trainer_of(BAG, 0)
    folder = tmp_path / "run"
    with RunCallbacks(folder, console, Second()).watching() as callbacks:
        trainer.fit(callbacks)
    assert not folder.exists()
    assert console.file.getvalue().strip() == ""  # type: ignore[attr-defined]
    with RunCallbacks(folder, console).watching() as callbacks:
        callbacks.on_checkpoint(trainer)
        callbacks.on_best(trainer)
    assert {each.name for each in folder.iterdir()} == {"run.pt", "towers.pt"}


def test_no_other_module_of_training_chooses_device_threads_or_rank() -> None:
    chooses = re.compile(
        r"torch\.device|torch\.cuda|backends\.mps|set_num_threads|torch\.distributed|\brank = "
    )
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "train").rglob("*.py")
        if chooses.search(path.read_text())
    }
    of_ranks = {f"train/training/{name}.py" for name in ("exchange", "rank_processes", "ranks")}
    assert found == {"train/training/device.py", *of_ranks}
