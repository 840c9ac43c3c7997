"""A hashed tower learns the vectors of a teacher."""

import numpy as np
import pytest
import torch

from twinspire.protos.features import Schema, TextFeature
from twinspire.train.config.towers import BagTower
from twinspire.train.models import encoders
from twinspire.train.models.architectures.transformer import AlignmentTask, align
from twinspire.train.models.encoders import HashedTextEncoder
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.models.towers import Tower

SCHEMA = Schema({"text": TextFeature("text", "text", 64)}, {"text": TextFeature("text", "text", 64)})
CONFIG = BagTower("bag", dimension=16, latent=0, buckets=2048, query_hidden=8, item_hidden=0, characters=())
WORDS = np.array(["red", "green", "blue", "lamp", "desk", "chair", "wood", "steel", "small", "large"])


def student() -> Tower:
    """A query tower whose table starts without meaning, as those that learn from a teacher."""
    torch.manual_seed(0)
    query, _ = architecture_of(CONFIG).build(SCHEMA)
    encoder = query.encoders["text"]
    assert isinstance(encoder, HashedTextEncoder)
    encoder.from_scratch = True
    return query


def texts(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 3, replace=False)) for _ in range(count)]


def teacher(given: list[str]) -> np.ndarray:
    """Unit vectors (T, 16): the sum of a random vector for each word."""
    known = dict(zip(WORDS, np.random.default_rng(7).normal(size=(len(WORDS), 16)), strict=True))
    total = np.array([sum(known[word] for word in text.split()) for text in given])
    return np.asarray(total / np.linalg.norm(total, axis=1, keepdims=True), np.float32)


def task(tower: Tower, count: int, seed: int) -> AlignmentTask:
    given = texts(count, seed)
    inputs = PreparedInputs(SCHEMA, "query", {"text": given}, architecture_of(CONFIG).hashing())
    return AlignmentTask(tower, inputs, np.arange(count), teacher(given))


def cosine(tower: Tower, of: AlignmentTask) -> float:
    with torch.inference_mode():
        vectors = tower(of.inputs.batch(of.rows)).numpy()
    return float((vectors * of.targets).sum(axis=1).mean())


def test_a_tower_learns_the_vectors_of_texts_that_it_has_not_seen() -> None:
    query = student()
    unseen = task(query, 50, seed=2)
    assert abs(cosine(query, unseen)) < 0.3
    lines: list[str] = []
    losses = align([task(query, 600, seed=1)], 20, 0, lines.append)
    assert losses[-1] < 0.1 < losses[0]
    assert cosine(query, unseen) > 0.85
    assert len(lines) == 20
    assert lines[-1] == f"alignment, epoch 20 of 20: mean cosine to the teacher {1 - losses[-1]:.3f}"


def test_a_large_table_learns_as_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of a large table are sparse, which Adam does not take."""

    def learned() -> Tower:
        tower = student()
        align([task(tower, 64, 0)], 2, 0)
        return tower

    small = learned()
    monkeypatch.setattr(encoders, "ROWS_FROM", 1)
    for ours, theirs in zip(learned().parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 11, 20])
def test_any_number_of_steps_will_do(epochs: int) -> None:
    query = student()
    losses = align([task(query, 20, seed=1)], epochs, 0)  # a step an epoch
    assert len(losses) == epochs
    assert np.isfinite(losses).all()
