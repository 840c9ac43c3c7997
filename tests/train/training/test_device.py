"""One module knows the device and the processes; trainer, callbacks and run go through it."""

import re
from dataclasses import replace
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

from protos.errors import ConfigError
from protos.features import SIDES, Side
from tests.helpers.people import data_of_people, random_people, schema_of_people
from tests.helpers.stdlib import experiment_at, write_toml
from tests.train.losses.test_objective import (
    IN_BATCH,
    ITEMS,
    LOSSES,
    batches_and_candidates,
    data_of_pairs,
    pairs_of,
)
from tests.train.models.test_tower_factory import (
    KINDS,
    RECORDS,
    SCHEMAS,
    TAKEN,
    built,
    inputs,
)
from tests.train.training.test_checkpoint import BAG, SCHEMA, trainer_of
from train.config.losses import Bce
from train.config.towers import ClicksTower, SequenceTower
from train.config.training import Device, Precision, TrainingConfig
from train.data.batches import HistoryBatches
from train.losses.objective import build_objective
from train.models.encoders import TextBags
from train.models.interests import largest_products
from train.models.prepared_inputs import PreparedHistories, PreparedInputs
from train.models.tower_factory import build_towers, hashing_of
from train.models.towers import Inputs, Tower
from train.paths import ROOT
from train.training.device import (
    CPU,
    SINGLE_PROCESS,
    TrainingProcess,
    check_precision,
    choose_device,
    start_process,
)
from train.training.run import _fingerprint, fit
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
    towers = build_towers(ClicksTower("clicks", dimension=8, buckets=64), SCHEMA)
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


def test_dropout_and_windows_of_histories_stay_on_the_device() -> None:
    """Such as training uses, beside the towers of `KINDS`."""
    sequence: dict[str, Any] = {
        "dimension": 8,
        "buckets": 64,
        "history_dropout": 0.5,
    }
    schema = schema_of_people(ITEMS, max_length=10)
    data = data_of_people(random_people(25, ITEMS), ITEMS)
    assert data.histories is not None
    histories = PreparedHistories(data.histories, data.item_ids, 10)
    for history in ("attention", "sum"):
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


def cards(monkeypatch: pytest.MonkeyPatch, count: int, metal: bool = False) -> None:
    """This machine is one with cards, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)


@pytest.mark.parametrize(
    ("asked", "ranks", "count", "metal", "expected"),
    [
        ("auto", 1, 2, True, "cuda:0"),
        ("auto", 2, 2, False, "cuda:0"),
        ("auto", 2, 1, False, "cpu"),
        ("auto", 1, 0, True, "mps"),
        ("auto", 2, 0, True, "cpu"),
        ("auto", 1, 0, False, "cpu"),
        ("cpu", 1, 2, True, "cpu"),
        ("cuda", 2, 3, False, "cuda:0"),
        ("mps", 1, 2, True, "mps"),
    ],
)
def test_auto_takes_a_card_for_each_rank_then_metal_then_the_cpu(
    asked: Device, ranks: int, count: int, metal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, count, metal)
    assert str(choose_device(asked, ranks)) == expected


@pytest.mark.parametrize(
    ("asked", "ranks", "count", "metal", "expected"),
    [
        ("cuda", 1, 0, False, 'training.device: "cuda", but torch finds no CUDA device'),
        ("cuda", 3, 2, False, "with 3 ranks needs 3 CUDA devices, one for each rank; torch finds 2"),
        ("mps", 1, 0, False, 'training.device: "mps", but torch finds no Metal device'),
        ("mps", 2, 0, True, "trains with one process, not with 2 ranks"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_a_run_starts(
    asked: Device,
    ranks: int,
    count: int,
    metal: bool,
    expected: str,
    stdlib: Path,
    tmp_path: Path,
    store: str,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards(monkeypatch, count, metal)
    training: Any = {"device": asked}
    experiment, dataset = experiment_at(write_toml(stdlib, tmp_path / "a.toml", training=training))
    with pytest.raises(ConfigError, match=re.escape(expected)):
        fit(experiment, dataset, console, ranks=ranks)
    assert not len(mlflow.search_runs(search_all_experiments=True))


def test_the_device_is_not_part_of_a_runs_key_and_the_precision_is(stdlib: Path, tmp_path: Path) -> None:
    def key(**training: Any) -> str:
        return _fingerprint(*experiment_at(write_toml(stdlib, tmp_path / "a.toml", training=training)))

    assert key() == key(device="auto") == key(device="cuda") == key(precision="float32")
    assert key(precision="bfloat16") != key()


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old card")
    with pytest.raises(ConfigError, match="an old card does not compute in it"):
        check_precision(torch.device("cuda", 0), "bfloat16")
    check_precision(torch.device("cuda", 0), "float32")
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major <= 13)
    with pytest.raises(ConfigError, match="needs macOS 14"):
        check_precision(torch.device("mps"), "bfloat16")
    check_precision(torch.device("cpu"), "bfloat16")


def test_towers_that_torch_cannot_train_in_a_precision_are_refused_before_training(
    stdlib: Path, tmp_path: Path, store: str, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_features = Tower.encode_features

    def lacking(tower: Tower, inputs: Any) -> Tensor:
        """Through an operation that torch has in float32 only, on every processor."""
        found = encode_features(tower, inputs)
        return torch.special.bessel_j0(found.bfloat16()) if torch.is_autocast_enabled("cpu") else found

    monkeypatch.setattr(Tower, "encode_features", lacking)
    training = {"precision": "bfloat16"}
    experiment, dataset = experiment_at(write_toml(stdlib, tmp_path / "a.toml", training=training))
    with pytest.raises(ConfigError, match=r'training\.precision: "bfloat16".*bessel_j0.*; use "float32"$'):
        fit(experiment, dataset, console)
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FAILED"
    assert not [
        name for name in run.data.metrics if not name.startswith("system/")
    ]  # no epoch, not even the start


def test_the_trial_of_a_precision_changes_nothing() -> None:
    data = data_of_people(random_people(25, ITEMS), ITEMS)
    schema = schema_of_people(ITEMS, max_length=10)
    config = SequenceTower("sequence", dimension=8, buckets=64)
    towers, hashing = build_towers(config, schema), hashing_of(config)
    prepared = (
        PreparedInputs(schema, "query", data.queries, hashing),
        PreparedInputs(schema, "item", data.items, hashing),
    )
    trainer = Trainer(towers, data, prepared, IN_BATCH, TrainingConfig(batch_size=8), shared_windows=True)
    trainer.process = TrainingProcess(CPU, "bfloat16")
    before = [value.clone() for tower in towers for value in tower.state_dict().values()]
    trainer.check_precision()
    after = [value for tower in towers for value in tower.state_dict().values()]
    assert all(map(torch.equal, after, before))
    assert all(each.grad is None for tower in towers for each in tower.parameters())
    assert (trainer.state.step, trainer.state.losses) == (0, [])


class Dtypes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The types of the matrix products that torch computes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default):
            self.found.add(result.dtype)
        return result


def test_in_bfloat16_towers_multiply_in_it_and_all_else_stays_float32() -> None:
    trainer = trainer_of(BAG, 0)
    trainer.process = TrainingProcess(CPU, "bfloat16")
    batch = next(iter(trainer._batches()[1]))
    with Dtypes() as seen:
        vectors = trainer.process.encode(trainer.towers[1], batch.queries, trainer.items.batch)
    assert seen.found == {torch.bfloat16}
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-6, rtol=0)
    scored: list[torch.dtype] = []
    losses = trainer.objective.losses

    def watched(scores: Tensor, *rest: Any) -> Tensor:
        found = losses(scores, *rest)
        scored.extend([scores.dtype, found.dtype])
        return found

    trainer.objective.losses = watched  # type: ignore[assignment, method-assign]
    trainer._step(batch)
    assert scored == [torch.float32] * 2
    values = [*trainer.optimiser.state.values()]
    assert {each["exp_avg"].dtype for each in values} == {torch.float32}
    found = trainer.item_vectors()
    trainer.process = SINGLE_PROCESS
    trainer.clear_cached_vectors()
    assert torch.equal(found, trainer.item_vectors())  # mining and evaluation see what is exported


def prepared(kind: str, schema: str, side: Side) -> Inputs:
    """The records as training reads them: texts are hashed before, not by a network in bfloat16."""
    whole = SCHEMAS[schema]
    features = getattr(whole, side)
    values: dict[str, Any] = {name: RECORDS[side][name] for name in features if name != "history"}
    if not values:
        return inputs(schema, side)
    read = replace(whole, **{side: {name: features[name] for name in values}})
    given = PreparedInputs(read, side, values, hashing_of(KINDS[kind])).batch(np.arange(4))
    return {**inputs(schema, side), **given} if len(values) < len(features) else given


@pytest.mark.parametrize(
    ("kind", "schema"), [each for each in TAKEN if each[1] in ("texts", "everything") or "comirec" in each[0]]
)
def test_each_tower_trains_in_bfloat16_close_to_float32(kind: str, schema: str) -> None:
    found = {}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        query, item = built(kind, schema)
        process = TrainingProcess(CPU, precision)
        left = process.encode(query, np.arange(4), lambda _: prepared(kind, schema, "query"))
        right = process.encode(item, np.arange(4), lambda _: prepared(kind, schema, "item"))
        scores = largest_products(left, right)
        scores.logsumexp(dim=1).sum().backward()  # type: ignore[no-untyped-call]
        assert left.dtype == right.dtype == torch.float32
        given = [each.grad for tower in (query, item) for each in tower.parameters()]
        assert all(each is None or (each.isfinite().all() and each.dtype == torch.float32) for each in given)
        found[precision] = scores.detach()
    scale = found["float32"].abs().max()
    torch.testing.assert_close(found["bfloat16"] / scale, found["float32"] / scale, atol=0.05, rtol=0)
