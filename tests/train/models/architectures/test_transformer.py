"""Towers on a tiny pretrained encoder, as training builds them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.pretrained import WIDTH, needs_tokenizers, needs_transformers, write_experiment
from tests.helpers.shared import shared_folder
from tests.helpers.stdlib import experiment_at, started
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import SIDES
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.architectures import transformer
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.pretrained import encoder
from twinspire.train.models.pretrained.encoder import PretrainedTextEncoder, load_encoder
from twinspire.train.models.pretrained.folder import PretrainedFolder
from twinspire.train.models.towers import Residual, Tower
from twinspire.train.training import run as training
from twinspire.train.training.trained_model import Model
from twinspire.train.training.trainer import Trainer

pytestmark = [needs_tokenizers(), needs_transformers()]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, stdlib: Path) -> Path:
    """The folder of a model and an experiment."""
    return shared_folder(
        tmp_path_factory, "transformer-towers", lambda folder: write_experiment(folder, stdlib, "frozen")
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(encoder, "FOLDER", tmp_path / "pretrained")
    return tmp_path / "pretrained"


def experiment(source: Path, folder: Path, **keys: str) -> Path:
    """The experiment with other keys of `[tower]`, beside a model of its own."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    path = folder / "frozen.toml"
    lines = [f"{key} = {value}" for key, value in keys.items()]
    path.write_text(path.read_text().replace("[tower]", "\n".join(["[tower]", *lines])))
    return path


def trainer_of(model: Model, data: TrainingData, prepared: tuple[object, object]) -> Trainer:
    return Trainer(model.towers, data, prepared, model.experiment.loss, model.experiment.training)  # type: ignore[arg-type]


def step(trainer: Trainer) -> float:
    trainer.towers[0].train()
    trainer.towers[1].train()
    return trainer._step(next(iter(trainer._batches()[1])))


def weights_of(model: Model) -> list[torch.Tensor]:
    encoder = model.towers[0].encoders["text"]
    assert isinstance(encoder, PretrainedTextEncoder)
    assert model.towers[1].encoders["text"] is encoder  # both sides share it
    return [each.detach().clone() for each in encoder.parameters()]


def head_of(tower: Tower) -> torch.Tensor:
    assert isinstance(tower.deep, Residual)
    return tower.deep.outer.weight.detach().clone()


def test_a_frozen_encoder_is_read_once_and_starts_as_it_is(source: Path) -> None:
    model, data, (queries, items) = started(source / "frozen.toml")
    assert items.arrays["text"].shape == (data.item_count, WIDTH)
    encoder = load_encoder(PretrainedFolder.read(source / "mini"))
    for side, tower, corpus in zip(("query", "item"), model.towers, (queries, items), strict=True):
        values = data.queries if side == "query" else data.items
        sample = {"text": [values["text"][row] for row in range(5)]}
        tokens = torch.from_numpy(model.schema.side(side).to_arrays(sample)["text"])  # type: ignore[arg-type]
        tower.eval()
        with torch.inference_mode():
            expected = encoder(tokens)
            torch.testing.assert_close(tower({"text": tokens}), expected, rtol=0, atol=1e-6)
            torch.testing.assert_close(tower(corpus.batch(np.arange(5))), expected, rtol=0, atol=1e-6)


def test_a_step_trains_the_heads_alone(source: Path) -> None:
    model, data, prepared = started(source / "frozen.toml")
    before = weights_of(model)
    heads = [head_of(tower) for tower in model.towers]
    assert np.isfinite(step(trainer_of(model, data, prepared)))
    assert all(map(torch.equal, before, weights_of(model)))
    for tower, head in zip(model.towers, heads, strict=True):
        assert not torch.equal(head_of(tower), head)


def test_hashed_sides_start_near_the_teacher(source: Path, tmp_path: Path) -> None:
    path = experiment(
        source, tmp_path / "own", query='"hashed"', item='"hashed"', buckets="4096", align_epochs="40"
    )
    model, data, prepared = started(path)
    teacher = encoder.EncodedTexts(PretrainedFolder.read(source / "mini"), tmp_path / "pretrained")
    for side, tower, corpus in zip(("query", "item"), model.towers, prepared, strict=True):
        rows = np.unique(data.parts["train"].query) if side == "query" else np.arange(data.item_count)
        values, spec = (data.queries, "query") if side == "query" else (data.items, "item")
        feature = getattr(model.schema, spec)["text"]
        assert feature.input == "code_points"
        expected = teacher.vectors([values["text"][row] for row in rows], feature)
        tower.eval()
        with torch.inference_mode():
            found = tower(corpus.batch(rows)).numpy()
        assert float((found * expected).sum(axis=1).mean()) > 0.8
    tables = [tower.encoders["text"].table for tower in model.towers]
    assert tables[0] is tables[1]


@pytest.mark.parametrize("beside", ["true", "false"])
def test_a_hashed_query_tower_has_learned_the_texts_of_the_items(
    source: Path, tmp_path: Path, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of later queries are often in no training query, but in the text of an item."""
    path = experiment(
        source, tmp_path / "own", query='"hashed"', words_beside=beside, buckets="4096", align_epochs="40"
    )
    learned = cosine_to_items(path)
    task = transformer._task_of_items
    monkeypatch.setattr(
        transformer,
        "_task_of_items",
        lambda *known: dataclasses.replace(
            task(*known), rows=np.arange(0), targets=np.empty((0, WIDTH), np.float32)
        ),
    )
    assert learned > cosine_to_items(path) + 0.3


def cosine_to_items(path: Path) -> float:
    """The mean cosine of the query tower's vectors of all items' texts to the encoder's, both centred."""
    model, data, prepared = started(path)
    texts = [*data.items["text"]]
    arrays = model.schema.side("query").to_arrays({"text": texts})
    tower = model.towers[0].eval()
    with torch.inference_mode():
        found = tower({"text": torch.from_numpy(arrays["text"])}).numpy()
    expected = prepared[1].arrays["text"]
    own, taught = (each - each.mean(axis=0) for each in (found, expected))  # those of this model are alike
    cosines = (own * taught).sum(axis=1) / np.linalg.norm(own, axis=1) / np.linalg.norm(taught, axis=1)
    return float(cosines.mean())


def test_words_beside_the_encoder_are_added_to_its_vector(source: Path, tmp_path: Path) -> None:
    path = experiment(source, tmp_path / "own", words_beside="true", buckets="4096")
    model, data, prepared = started(path)
    tables = []
    for side, tower, corpus in zip(SIDES, model.towers, prepared, strict=True):
        values = data.queries if side == "query" else data.items
        words = tower.encoders["text__code_points"]
        assert isinstance(words, HashedTextEncoder)
        tables.append(words.table)
        assert len(np.unique(words.weights.detach().numpy())) > 10  # by rarity
        arrays = model.schema.side(side).to_arrays({"text": [values["text"][row] for row in range(5)]})
        batch = {name: torch.from_numpy(each) for name, each in arrays.items()}
        tower.eval()
        with torch.inference_mode():
            total = tower.encoders["text"](batch["text"]) + words(batch["text__code_points"])
            expected = torch.nn.functional.normalize(total)
            torch.testing.assert_close(tower(batch), expected, rtol=0, atol=1e-6)
            torch.testing.assert_close(tower(corpus.batch(np.arange(5))), expected, rtol=0, atol=1e-6)
    assert tables[0] is tables[1]


def test_the_hashed_table_has_the_size_of_the_vocabulary(source: Path, tmp_path: Path) -> None:
    model, _, _ = started(experiment(source, tmp_path / "own", query='"hashed"', align_epochs="0"))
    rows = model.experiment.tower.buckets
    assert 1024 <= rows <= 16_384  # of some thousand distinct n-grams and words
    assert rows & (rows - 1) == 0
    encoder = model.towers[0].encoders["text"]
    assert isinstance(encoder, HashedTextEncoder)
    assert len(encoder.table) == rows
    assert isinstance(model.towers[1].encoders["text"], PretrainedTextEncoder)
    weights = encoder.weights.detach().numpy()
    assert weights[0] == 0
    assert weights[1:].min() > 0
    assert len(np.unique(weights)) > 10  # by rarity


def test_the_key_of_a_run_covers_the_model_and_not_its_place(source: Path, tmp_path: Path) -> None:
    keys = []
    for name in ("a", "b"):
        read, dataset = experiment_at(experiment(source, tmp_path / name))
        keys.append(training._fingerprint(read, dataset))
    assert keys[0] == keys[1]
    with (tmp_path / "b" / "mini" / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    assert training._fingerprint(read, dataset) != keys[1]


def test_more_tokens_than_the_model_reads_are_refused(source: Path, tmp_path: Path) -> None:
    path = experiment(source, tmp_path / "own")
    path.write_text(path.read_text().replace('column = "query"', 'column = "query"\nmax_length = 25'))
    with pytest.raises(ConfigError, match=r"query\.text\.max_length: mini reads up to 24 tokens, got 25"):
        started(path)


def test_a_folder_without_weights_is_refused_before_training(source: Path, tmp_path: Path) -> None:
    path = experiment(source, tmp_path / "own")
    (tmp_path / "own" / "mini" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="expected weights in model"):
        started(path)
