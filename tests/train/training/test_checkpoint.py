"""Checkpoints come back whole, or are refused by name; reading one runs no code."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twinspire.protos.errors import DataError
from twinspire.protos.features import Schema, TextFeature
from twinspire.train.config.losses import InBatchSoftmax
from twinspire.train.config.towers import BagTower, DssmTower
from twinspire.train.config.training import TrainingConfig
from twinspire.train.data.training_data import Pairs, TrainingData
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import Towers, architecture_of
from twinspire.train.training.checkpoint import load_run, load_towers, save_run, save_towers
from twinspire.train.training.trainer import Trainer

TEXT = TextFeature("text", "text")
SCHEMA = Schema({"text": TEXT}, {"text": TEXT})
BAG = BagTower("bag", 8, 0, buckets=64, item_hidden=4)
DSSM = DssmTower("dssm", 8, buckets=64, hidden=(4,))


def towers_of(config: BagTower | DssmTower, seed: int) -> Towers:
    torch.manual_seed(seed)
    return architecture_of(config).build(SCHEMA)


def state(towers: Towers) -> list[torch.Tensor]:
    return [value for tower in towers for value in tower.state_dict().values()]


def trainer_of(config: BagTower | DssmTower, seed: int) -> Trainer:
    texts = {"text": [f"text {n}" for n in range(8)]}
    pairs = Pairs(np.arange(8), np.arange(8), np.ones(8, np.float32))
    data = TrainingData(texts, texts, dict.fromkeys(("train", "validation", "test"), pairs), 8, 8)
    hashing = architecture_of(config).hashing()
    prepared = PreparedInputs(SCHEMA, "query", texts, hashing), PreparedInputs(SCHEMA, "item", texts, hashing)
    loss = InBatchSoftmax("in_batch_softmax", hard_negatives=1)
    return Trainer(
        towers_of(config, seed), data, prepared, loss, TrainingConfig(epochs=5, patience=2, batch_size=4)
    )


@pytest.mark.parametrize("config", [BAG, DSSM])
def test_towers_come_back(tmp_path: Path, config: BagTower | DssmTower) -> None:
    first, second = towers_of(config, 1), towers_of(config, 2)
    path = tmp_path / "deep" / "towers.pt"
    save_towers(path, first)
    load_towers(path, second)
    assert all(map(torch.equal, state(first), state(second)))
    assert [each.name for each in path.parent.iterdir()] == ["towers.pt"]
    if config is BAG:
        assert second[0].encoders["text"].table is second[1].encoders["text"].table


def test_a_shared_table_is_stored_once(tmp_path: Path) -> None:
    config = BagTower("bag", 64, 0, buckets=4096)
    save_towers(tmp_path / "towers.pt", towers_of(config, 0))
    assert 4096 * 64 * 4 < (tmp_path / "towers.pt").stat().st_size < 1.8 * 4096 * 64 * 4


def test_a_flipped_byte_is_refused_by_name_or_changes_nothing(tmp_path: Path) -> None:
    path, towers = tmp_path / "towers.pt", towers_of(BAG, 0)
    save_towers(path, towers)
    content = path.read_bytes()
    refused = 0
    places = range(0, len(content), 61)
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        other = towers_of(BAG, 1)
        try:
            load_towers(path, other)
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert all(map(torch.equal, state(other), state(towers)))
    assert refused > len(places) / 2  # the rest is what pads and describes


def test_towers_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "towers.pt"
    save_towers(path, towers_of(BAG, 0))
    wider = BagTower("bag", 16, 0, buckets=64, item_hidden=4)
    for config in (DSSM, wider):
        with pytest.raises(DataError, match=r"towers\.pt: does not fit the towers of this experiment"):
            load_towers(path, towers_of(config, 0))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.pt: there is no such checkpoint"):
        load_towers(tmp_path / "run.pt", towers_of(BAG, 0))


def test_a_run_of_another_experiment_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    save_run(path, trainer_of(BAG, 0))
    with pytest.raises(DataError, match=r"run\.pt: does not fit"):
        load_run(path, trainer_of(DSSM, 0))
    save_towers(path, towers_of(BAG, 0))
    with pytest.raises(DataError, match=r"run\.pt: does not fit"):
        load_run(path, trainer_of(BAG, 0))
    torch.save([1, 2], path)
    with pytest.raises(DataError, match=r"run\.pt: does not fit"):
        load_run(path, trainer_of(BAG, 0))


class Trap:
    """Unpickling one makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_reading_runs_no_code(tmp_path: Path) -> None:
    torch.save({"query": Trap(tmp_path / "sprung"), "item": {}}, tmp_path / "towers.pt")
    with pytest.raises(DataError, match=r"towers\.pt: damaged checkpoint"):
        load_towers(tmp_path / "towers.pt", towers_of(BAG, 0))
    assert not (tmp_path / "sprung").exists()
