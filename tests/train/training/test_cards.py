"""Trainings on a card, beside the same on the CPU; skipped where there is none."""

import statistics
from pathlib import Path

import pytest
import torch

from tests.helpers import watched
from tests.helpers.stdlib import write_toml
from tests.train.losses.test_objective import IN_BATCH
from tests.train.training.test_emulated_device import (
    OF_FILMS,
    OF_TEXTS,
    SHORT,
    held,
    made_from,
    moved,
    trained,
)
from tests.train.training.test_ranks import CASES, of_people
from tests.train.training.test_trainer import Watcher
from twinspire.train.training.checkpoint import load_run
from twinspire.train.training.process import SINGLE_PROCESS, TrainingProcess
from twinspire.train.training.trainer import Interrupted

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
MPS = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="torch finds no Metal device")
ON_EACH = pytest.mark.parametrize(
    "card", [pytest.param("cuda:0", marks=CUDA), pytest.param("mps", marks=MPS)]
)


@ON_EACH
@pytest.mark.parametrize("kind", CASES)
def test_each_loss_on_a_card_is_that_on_the_cpu(card: str, kind: str) -> None:
    made = moved(lambda: of_people(CASES[kind], history="sum"))
    here, there = (trained(made, each) for each in (SINGLE_PROCESS, TrainingProcess(torch.device(card))))
    assert there.state.losses == pytest.approx(here.state.losses, rel=1e-3)


@ON_EACH
@pytest.mark.parametrize("kind", OF_TEXTS)
def test_towers_of_texts_on_a_card_are_those_on_the_cpu(
    card: str, kind: str, stdlib: Path, tmp_path: Path
) -> None:
    made = made_from(write_toml(stdlib, tmp_path / "a.toml", sections=OF_TEXTS[kind]))
    here, there = (trained(made, each) for each in (SINGLE_PROCESS, TrainingProcess(torch.device(card))))
    # The start of `bag` is another approximation of the same singular vectors.
    assert there.state.losses == pytest.approx(here.state.losses, rel=0.02)
    found, expected = (each.evaluate("validation")["ndcg_at_10"] for each in (there, here))
    assert found == pytest.approx(expected, abs=0.05)


@ON_EACH
@pytest.mark.parametrize("kind", OF_FILMS)
def test_towers_of_histories_on_a_card_have_the_quality_of_the_cpu(
    card: str, kind: str, films: Path, tmp_path: Path
) -> None:
    """Dropout draws other numbers there."""
    sections = {**OF_FILMS[kind], "training": {**watched.ATTENTION["training"], **SHORT}}
    made = made_from(watched.write_toml(films, tmp_path / "a.toml", sections=sections))
    here, there = (trained(made, each) for each in (SINGLE_PROCESS, TrainingProcess(torch.device(card))))
    assert statistics.fmean(there.state.losses) == pytest.approx(statistics.fmean(here.state.losses), rel=0.1)


@ON_EACH
def test_a_checkpoint_of_a_card_goes_on_on_the_cpu_and_back(card: str, tmp_path: Path) -> None:
    made = moved(lambda: of_people(IN_BATCH, history="sum"))
    whole = trained(made, SINGLE_PROCESS)
    there = TrainingProcess(torch.device(card))
    path = tmp_path / "run.pt"
    for first, second in ((there, SINGLE_PROCESS), (SINGLE_PROCESS, there)):
        with pytest.raises(Interrupted):
            made(first).fit(Watcher(path, stop_after=7))
        resumed = made(second)
        load_run(path, resumed)
        resumed.fit(Watcher())
        assert resumed.state.losses == pytest.approx(whole.state.losses, rel=1e-3)
        for ours, theirs in zip(held(resumed), held(whole), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
