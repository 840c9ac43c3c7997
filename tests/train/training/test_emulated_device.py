"""Whole trainings on a device that refuses what is not moved to it: the same weights as on the CPU."""

import dataclasses
import io
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.entities import Run
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from tests.helpers import pretrained, watched
from tests.helpers import stdlib as stdlib_sections
from tests.helpers.click_logs import CLICKS_TOML, write_clicks
from tests.helpers.emulated_device import DEVICE, EmulatedTensor, OtherDevice, emulated_device
from tests.helpers.stdlib import Sections, experiment_at, started, tracking_at
from tests.helpers.stdlib import write_toml as stdlib_toml
from tests.train.losses.test_objective import LOSSES
from tests.train.training.test_ranks import BAG, CASES, CLICKS, LABELS, of_people, of_texts
from tests.train.training.test_trainer import Watcher, history
from twinspire.protos.errors import Unavailable
from twinspire.protos.features import FIRST_KNOWN
from twinspire.train.config.losses import LossConfig
from twinspire.train.data.training_data import Pairs
from twinspire.train.models import initialization
from twinspire.train.models.architectures import transformer
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.pretrained import encoder
from twinspire.train.models.sequence_encoders import IdEncoder, PoolingEncoder
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.training import run as training
from twinspire.train.training.checkpoint import load_run
from twinspire.train.training.process import SINGLE_PROCESS, TrainingProcess, memory_advice
from twinspire.train.training.run_metrics import metrics_of
from twinspire.train.training.trained_model import load_model
from twinspire.train.training.trainer import Interrupted, Trainer

THERE = TrainingProcess(DEVICE)
SHORT: Any = {"epochs": 1, "batch_size": 128, "threads": 1}
HARD: Any = {"kind": "in_batch_softmax", "hard_negatives": 1}
OF_TEXTS: dict[str, Sections] = {
    "bag": {**stdlib_sections.FEATURES, "loss": HARD, "training": {**SHORT, "epochs": 2}},
    "dssm": {**stdlib_sections.DSSM, "training": SHORT},
}
DROPOUT: Any = {"history_dropout": 0.3}
OF_FILMS: dict[str, Sections] = {
    "attention": {**watched.ATTENTION, "tower": {**watched.ATTENTION["tower"], **DROPOUT}},
    "latent": {**watched.LATENT, "tower": {**watched.LATENT["tower"], "history": "attention"}},
    "sum": watched.SUM,
    "clicks": watched.RATINGS,
    "comirec": watched.COMIREC,
    "query by words": watched.ASKED,
}


def held(trainer: Trainer) -> list[Tensor]:
    """The weights, in main memory."""
    return [value.cpu() for tower in trainer.towers for value in tower.state_dict().values()]


def is_there(trainer: Trainer) -> bool:
    """Whether all that the towers hold is on the device."""
    found = [value for tower in trainer.towers for value in (*tower.parameters(), *tower.buffers())]
    return all(isinstance(each, EmulatedTensor) for each in found)


def trained(made: Callable[[TrainingProcess], Trainer], process: TrainingProcess) -> Trainer:
    trainer = made(process)
    trainer.fit(Watcher())
    return trainer


@pytest.fixture(autouse=True)
def without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU multiplies matrices as the emulated device does, so that the bits can be equal."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)


def same_as_on_the_cpu(made: Callable[[TrainingProcess], Trainer], rounding: float = 0.0) -> None:
    """Train on both; on the device without solvers, so that both start with the same weights."""
    here = trained(made, SINGLE_PROCESS)
    with emulated_device(takes_doubles=False):
        there = trained(made, THERE)
        assert is_there(there)
        np.testing.assert_allclose(there.state.losses, here.state.losses, rtol=rounding)
        for ours, theirs in zip(held(there), held(here), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding)
        if not rounding:
            assert history(there) == history(here)


def shortened(trainer: Trainer) -> Trainer:
    trainer.config = dataclasses.replace(trainer.config, epochs=1)
    return trainer


def first(pairs: Pairs) -> Pairs:
    """Of the first 60 queries, which is enough to go through all code."""
    return pairs.where(np.isin(pairs.query, np.unique(pairs.query)[:60]))


def made_from(path: Path, whole: bool = False) -> Callable[[TrainingProcess], Trainer]:
    def made(process: TrainingProcess) -> Trainer:
        torch.set_num_threads(1)
        model, data, prepared = started(path, process)
        if not whole:
            parts = {name: first(pairs) for name, pairs in data.parts.items()}
            data = dataclasses.replace(data, parts=parts)
        experiment, windows = model.experiment, architecture_of(model.experiment.tower).shares_windows
        return Trainer(
            model.towers,
            data,
            prepared,
            experiment.loss,
            experiment.training,
            windows,
            process,
        )

    return made


def moved(made: Callable[[], Trainer]) -> Callable[[TrainingProcess], Trainer]:
    """The same trainer on the device of a process."""

    def on(process: TrainingProcess) -> Trainer:
        trainer = made()
        process.place_towers(trainer.towers)
        trainer.process = process
        return trainer

    return on


def test_the_emulated_device_is_strict() -> None:
    here = torch.arange(3.0)
    with emulated_device():
        there = here.to(DEVICE)
        mixtures: tuple[Callable[[], Tensor], ...] = (
            lambda: there + here,
            lambda: there[torch.tensor([0, 2])],
            lambda: torch.cat([there, here]),
            lambda: there.index_add_(0, torch.zeros(3, dtype=torch.int64), there),
        )
        for mixture in mixtures:
            with pytest.raises(OtherDevice, match="is in main memory"):
                mixture()
        with pytest.raises(RuntimeError):
            there.numpy()
        with torch.inference_mode(), pytest.raises(OtherDevice):
            torch.nn.functional.linear(here[None], there[None])
        assert (there + torch.tensor(1.0)).cpu().tolist() == [1, 2, 3]  # a constant
        assert (there * 2 + torch.ones(3, device=DEVICE)).cpu().tolist() == [1, 3, 5]
    with emulated_device(takes_doubles=False), pytest.raises(OtherDevice, match="no double precision"):
        there.double()


@pytest.mark.parametrize("kind", CASES)
def test_each_loss_trains_there(kind: str) -> None:
    same_as_on_the_cpu(moved(lambda: shortened(of_people(CASES[kind], history="sum"))))


@pytest.mark.parametrize("loss", [LABELS, LOSSES["in batch, hard"]], ids=["labels", "mined"])
def test_texts_train_there(loss: LossConfig) -> None:
    same_as_on_the_cpu(moved(lambda: of_texts(loss, CLICKS if loss is LABELS else BAG)))


@pytest.mark.parametrize("kind", OF_TEXTS)
def test_each_tower_of_texts_trains_there(kind: str, stdlib: Path, tmp_path: Path) -> None:
    path = stdlib_toml(stdlib, tmp_path / "a.toml", sections=OF_TEXTS[kind], data={"max_items": 150})
    same_as_on_the_cpu(made_from(path))


@pytest.mark.parametrize("kind", OF_FILMS)
def test_each_tower_of_histories_trains_there(kind: str, films: Path, tmp_path: Path) -> None:
    sections = {**OF_FILMS[kind], "training": {**watched.ATTENTION["training"], **SHORT}}
    path = watched.write_toml(
        films, tmp_path / f"{'windows' if kind == 'attention' else 'a'}.toml", sections=sections
    )
    same_as_on_the_cpu(made_from(path))


@pytest.mark.parametrize("begun_there", [True, False])
def test_a_run_goes_on_on_another_device_to_the_same_weights(begun_there: bool, tmp_path: Path) -> None:
    """With the optimiser's moments, the hard negatives and the place in the epoch."""
    made = moved(lambda: of_people(CASES["in batch, hard"], history="sum"))
    whole = trained(made, SINGLE_PROCESS)
    path = tmp_path / "run.pt"
    with emulated_device():
        first, second = (THERE, SINGLE_PROCESS) if begun_there else (SINGLE_PROCESS, THERE)
        begun = made(first)
        with pytest.raises(Interrupted):
            begun.fit(Watcher(path, stop_after=7))
        assert is_there(begun) == begun_there
        content = torch.load(path, weights_only=True)
        assert content["state"]["step"] == 2
        resumed = made(second)
        load_run(path, resumed)
        resumed.fit(Watcher())
        assert is_there(resumed) != begun_there
        moments = resumed.optimiser.state.values()
        assert all(isinstance(each["exp_avg"], EmulatedTensor) != begun_there for each in moments)
        assert resumed.state.losses == whole.state.losses
        assert all(map(torch.equal, held(resumed), held(whole)))


def run_there(path: Path, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Run, metrics and weights of an experiment on the CPU and there, each run in a store of its own."""
    experiment, dataset = experiment_at(path)
    runs = []
    for name, process in (("cpu", SINGLE_PROCESS), ("there", THERE)):
        (folder / name).mkdir()
        with tracking_at(f"sqlite:///{shutil.copy(store, folder / name)}"), monkeypatch.context() as patch:
            patch.setattr(training, "start_process", lambda *_, process=process: process)
            with emulated_device(takes_doubles=False) if process is THERE else nullcontext():
                run, _ = training.fit(experiment, dataset, Console(file=io.StringIO()))
            model = load_model(run)  # as the export does, on the CPU
            metrics = comparable(run)
        weights = [value for tower in model.towers for value in tower.state_dict().values()]
        runs.append((run, metrics, weights))
    return runs[0], runs[1]


def comparable(run: Run) -> dict[str, float]:
    timed = ("training_s", "refit_s", "epoch_s", "pairs_per_s")
    return {name: value for name, value in metrics_of(run).items() if name not in timed}


RECIPE: Sections = {
    **watched.COLD,
    "tower": {"kind": "history", "buckets": 512},
    "training": {**watched.ATTENTION["training"], **SHORT},
    "baselines": {"run": ["ease_recency"]},
}


@pytest.mark.exhaustive
def test_a_run_of_histories_is_the_same_there(
    films: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a linear model beside the towers, and new items placed by their content."""
    lines = (films / "log.csv").read_text().splitlines()[:1500]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    shutil.copy(films / "films.csv", tmp_path)
    path = watched.write_toml(tmp_path, tmp_path / "a.toml", sections=RECIPE)
    here, there = run_there(path, tmp_path, empty_store, monkeypatch)
    assert there[1] == here[1]
    assert {"cold_hr_at_10", "validation_mixture_ndcg_at_10"} <= {*here[1]}
    assert all(map(torch.equal, there[2], here[2]))
    assert there[0].data.tags["device"] == "meta"
    assert here[0].data.tags["device"] == "cpu"
    assert here[0].data.tags["device.name"]


@pytest.mark.exhaustive
def test_a_run_of_clicks_is_the_same_there(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With calibration."""
    write_clicks(tmp_path, users=30, items=20, events=600)
    toml = CLICKS_TOML.replace("epochs = 6", "epochs = 1").replace("batch_size = 256", "batch_size = 64")
    (tmp_path / "clicks.toml").write_text(toml + '[baselines]\nrun = ["base_rate"]\n')
    here, there = run_there(tmp_path / "clicks.toml", tmp_path, empty_store, monkeypatch)
    assert there[1] == here[1]
    assert "log_loss" in here[1]
    assert "calibration.kind" in here[0].data.params
    assert all(map(torch.equal, there[2], here[2]))


@pytest.mark.parametrize("width", [4, 12])
def test_the_start_as_tfidf_is_the_same_there(width: int, stdlib: Path, tmp_path: Path) -> None:
    """Singular vectors have no sign, and weak ones depend on the projection, so spans are compared."""
    changed: Any = {"tower": {"latent": width, "buckets": 1024}}
    path = stdlib_toml(stdlib, tmp_path / "a.toml", **changed)
    here = table_of(made_from(path)(SINGLE_PROCESS))[:, :width]
    with emulated_device():
        on_device = made_from(path)(THERE)
        assert is_there(on_device)
        there = table_of(on_device)
    own, random = there[:, :width], there[:, width:]
    torch.testing.assert_close(own.T @ own, torch.eye(width), atol=1e-4, rtol=0)
    torch.testing.assert_close(own.T @ random, torch.zeros(width, random.shape[1]), atol=1e-4, rtol=0)
    cosines = torch.linalg.svdvals(own.T @ here)
    assert cosines[: width // 2].min() > 0.95
    assert cosines.mean() > 0.9


def table_of(trainer: Trainer) -> Tensor:
    encoder = trainer.towers[0].encoders["text"]
    assert isinstance(encoder, HashedTextEncoder)
    return encoder.table.detach().cpu()


@pytest.mark.parametrize("exactly", [True, False])
def test_the_start_as_ease_is_the_same_there(
    exactly: bool, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exactly:
        monkeypatch.setattr(initialization, "EXACT_UP_TO", 10)
        monkeypatch.setattr(initialization, "MAX_APPROXIMATED_SHARE", 1.0)
    path = watched.write_toml(films, tmp_path / "a.toml", sections=watched.LATENT)
    here = factors_of(made_from(path)(SINGLE_PROCESS))
    with emulated_device():
        on_device = made_from(path)(THERE)
        assert is_there(on_device)
        there = factors_of(on_device)
    assert here.abs().max() > 0.01
    torch.testing.assert_close(there, here, atol=1e-4 if exactly else 0.02, rtol=0)


def factors_of(trainer: Trainer) -> Tensor:
    """(N, N): the item-item weights that the factors approximate."""
    query, item = (next(iter(tower.factors.values())) for tower in trainer.towers)
    assert isinstance(query, PoolingEncoder)
    assert isinstance(item, IdEncoder)
    left, right = (each.table.detach().cpu()[FIRST_KNOWN:] for each in (query, item))
    return left @ right.T


def test_a_device_without_memory_is_an_error_with_advice(
    stdlib: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, dataset = experiment_at(stdlib_toml(stdlib, tmp_path / "a.toml"))
    monkeypatch.setattr(training, "start_process", lambda *_: THERE)
    advice = (
        r"^meta \(.+\) has too little memory: CUDA out of memory\. Tried to allocate 2\.00 GiB\. GPU 0 has "
        r"a total capacity of 79\.11 GiB of which 1\.00 GiB is free.*; try a smaller training\.batch_size, "
        r'or training\.device = "cpu", which can also resume a run$'
    )
    with (
        tracking_at(f"sqlite:///{shutil.copy(empty_store, tmp_path)}"),
        emulated_device(room=1000),
        pytest.raises(Unavailable, match=advice),
    ):
        training.fit(experiment, dataset, Console(file=io.StringIO()))


@pytest.mark.parametrize(
    ("error", "tells"),
    [
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate"),
            True,
        ),
        (
            RuntimeError("MPS backend out of memory (MPS allocated: 18 GiB). Use PYTORCH_X=0.0 to lift it"),
            True,
        ),
        (MemoryError("Unable to allocate 3.00 TiB for an array with shape (8, 8)"), True),  # NumPy's
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_too_little_memory_is_told_without_a_card_too(error: Exception, tells: bool) -> None:
    advice = memory_advice(error, SINGLE_PROCESS)
    assert (advice is not None) == tells
    assert advice is None or (str(error).partition(".")[0] in advice and "PYTORCH" not in advice)


def outside(load: Callable[..., Any]) -> Callable[..., Any]:
    def loaded(*arguments: Any) -> Any:
        with _disable_current_modes():
            return load(*arguments)

    return loaded


@pytest.mark.parametrize("keys", [{}, {"query": "hashed"}], ids=str)
def test_a_pretrained_encoder_computes_there(
    keys: dict[str, Any], stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pretrained.write_experiment(tmp_path, stdlib, "mini-experiment", **keys)
    monkeypatch.setattr(encoder, "FOLDER", tmp_path / "vectors")

    for module in (transformer, encoder):  # transformers itself uses the device that stands for a card here
        monkeypatch.setattr(module, "load_encoder", outside(module.load_encoder))

    def made(process: TrainingProcess) -> Trainer:
        shutil.rmtree(tmp_path / "vectors", ignore_errors=True)
        return made_from(path)(process)

    here = trained(made, SINGLE_PROCESS)
    with emulated_device():
        there = trained(made, THERE)
        assert is_there(there)
    assert there.state.losses[0] == pytest.approx(here.state.losses[0], rel=1e-4)
    # Dropout draws in another order, and other negatives are mined where scores differ by rounding.
    assert there.state.losses == pytest.approx(here.state.losses, rel=0.1)
