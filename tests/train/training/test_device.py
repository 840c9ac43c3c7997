"""One module knows the device and the processes; trainer, callbacks and run go through it."""

import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.helpers.stdlib import experiment_at, write_toml
from tests.train.models.test_tower_factory import (
    TAKEN,
    built,
    inputs,
)
from tests.train.training.test_checkpoint import BAG, SCHEMA, trainer_of
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import SIDES
from twinspire.train.config.towers import ClicksTower
from twinspire.train.config.training import Device
from twinspire.train.models.encoders import TextBags
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.paths import ROOT
from twinspire.train.training.process import SINGLE_PROCESS, TrainingProcess, choose_device, start_process
from twinspire.train.training.run import _fingerprint, fit

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
    towers = architecture_of(ClicksTower("clicks", dimension=8, buckets=64)).build(SCHEMA)
    ELSEWHERE.place_towers(towers)
    query, item = (tower.head.radius for tower in towers)
    assert query is item
    assert query.device.type == "meta"
    assert {value.device.type for tower in towers for value in tower.state_dict().values()} == {"meta"}


@pytest.mark.parametrize(("kind", "schema"), TAKEN)
def test_a_tower_computes_on_the_device_of_its_inputs(kind: str, schema: str) -> None:
    towers = built(kind, schema)
    ELSEWHERE.place_towers(towers)
    for tower, side in zip(towers, SIDES, strict=True):
        placed = ELSEWHERE.place(inputs(schema, side))
        for training in (False, True):
            tower.train(training)
            with OnOneDevice():
                vectors = tower(placed)
            assert vectors.is_meta


def test_each_step_encodes_its_queries_and_candidates_through_the_process() -> None:
    trainer, process = trainer_of(BAG, 0), Counting()
    trainer.process = process
    _, batches = trainer._batches()
    for batch in batches:
        trainer._step(batch)
    assert process.encoded == [4, 4, 4, 4]  # queries and items of two batches


def test_no_other_module_of_training_chooses_device_threads_or_rank() -> None:
    chooses = re.compile(
        r"torch\.device|torch\.cuda|backends\.mps|set_num_threads|torch\.distributed|\brank = "
    )
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "train").rglob("*.py")
        if chooses.search(path.read_text())
    }
    assert found == {f"train/training/{name}.py" for name in ("process", "split_tables")}


def cards(monkeypatch: pytest.MonkeyPatch, count: int, metal: bool = False) -> None:
    """This machine is one with cards, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)


@pytest.mark.parametrize(
    ("asked", "ranks", "count", "metal", "expected"),
    [
        ("auto", 1, 2, True, "cuda:0"),
        ("auto", 2, 2, False, "cpu"),
        ("auto", 1, 0, True, "mps"),
        ("auto", 2, 0, True, "cpu"),
        ("auto", 1, 0, False, "cpu"),
        ("cpu", 1, 2, True, "cpu"),
        ("cuda", 1, 3, False, "cuda:0"),
        ("mps", 1, 2, True, "mps"),
    ],
)
def test_auto_takes_a_card_then_metal_then_the_cpu_and_several_ranks_the_cpu(
    asked: Device, ranks: int, count: int, metal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, count, metal)
    assert str(choose_device(asked, ranks)) == expected


@pytest.mark.parametrize(("asked", "name"), [("cuda", "CUDA"), ("mps", "Metal")])
def test_a_device_that_is_not_there_is_refused_before_a_run_starts(
    asked: Device,
    name: str,
    stdlib: Path,
    tmp_path: Path,
    store: str,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards(monkeypatch, 0)
    training: Any = {"device": asked}
    experiment, dataset = experiment_at(write_toml(stdlib, tmp_path / "a.toml", training=training))
    with pytest.raises(ConfigError, match=f'training.device: "{asked}", but torch finds no {name} device'):
        fit(experiment, dataset, console)
    assert not len(mlflow.search_runs(search_all_experiments=True))


def test_the_device_is_not_part_of_a_runs_key(stdlib: Path, tmp_path: Path) -> None:
    def key(**training: Any) -> str:
        return _fingerprint(*experiment_at(write_toml(stdlib, tmp_path / "a.toml", training=training)))

    assert key() == key(device="auto") == key(device="cuda")
