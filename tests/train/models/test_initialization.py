"""Start values: TF-IDF for text, statistics of the training rows for other features."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    NumberFeature,
    Schema,
    TextFeature,
)
from twinspire.train.config.towers import BagTower
from twinspire.train.evaluation.exact_search import encode
from twinspire.train.models.encoders import HashedTextEncoder, NumberEncoder
from twinspire.train.models.initialization import (
    fit_number_encoders,
    initialize_tfidf,
    inverse_document_frequency,
)
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import architecture_of
from twinspire.train.models.towers import Tower
from twinspire.train.training.trained_model import build_schema

TEXT = TextFeature("text", "text")
SCHEMA = Schema({"text": TEXT}, {"text": TEXT})
# Words far apart, so that each is one row of a large table.
WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike".split()


def documents(count: int = 60) -> list[str]:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, len(WORDS) + 1)
    return [" ".join(rng.choice(WORDS, 12, p=share / share.sum())) for _ in range(count)]


def bag(dimension: int, latent: int) -> tuple[tuple[Tower, Tower], PreparedInputs, PreparedInputs]:
    """Towers on whole words, initialized with `documents`; the queries are their first words."""
    config = BagTower("bag", dimension, latent, orders=(), buckets=4096, item_hidden=0)
    torch.manual_seed(0)
    towers = architecture_of(config).build(SCHEMA)
    hashing = architecture_of(config).hashing()
    queries = [" ".join(text.split()[:3]) for text in documents()]
    query, item = (
        PreparedInputs(SCHEMA, "query", {"text": queries}, hashing),
        PreparedInputs(SCHEMA, "item", {"text": documents()}, hashing),
    )
    initialize_tfidf(towers, item, latent, seed=0)
    return towers, query, item


def tfidf() -> Any:
    """Cosines (Q, N) in plain Python: IDF for each match, square roots of counts for items."""
    texts = [Counter(text.split()) for text in documents()]
    idf = {}
    for word in WORDS:
        holds = sum(word in text for text in texts)
        idf[word] = math.log(1 + (len(texts) - holds + 0.5) / (holds + 0.5))
    items = np.array([[math.sqrt(text[word] * idf[word]) for word in WORDS] for text in texts])
    query_texts = [Counter(text.split()[:3]) for text in documents()]
    queries = np.array([[text[word] * math.sqrt(idf[word]) for word in WORDS] for text in query_texts])
    for matrix in (items, queries):
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return queries @ items.T


def scores_of(dimension: int, latent: int) -> Any:
    towers, query, item = bag(dimension, latent)
    return (encode(towers[0], query) @ encode(towers[1], item).T).numpy()


def test_scores_start_as_tfidf() -> None:
    expected = tfidf()
    near, nearer = (
        np.corrcoef(scores_of(dimension, 0).ravel(), expected.ravel())[0, 1] for dimension in (64, 2048)
    )
    assert near > 0.8
    assert nearer > 0.99
    np.testing.assert_allclose(scores_of(8192, 0), expected, atol=0.06)


@pytest.mark.parametrize(("dimension", "latent"), [(64, 8), (16, 13), (16, 16), (64, 64)])
def test_the_first_dimensions_start_as_latent_semantics(dimension: int, latent: int) -> None:
    towers, query, item = bag(dimension, latent)
    text = towers[1].encoders["text"]
    assert isinstance(text, HashedTextEncoder)
    latent = min(latent, len(WORDS))
    directions, rest = text.table[:, :latent], text.table[:, latent:]
    torch.testing.assert_close(directions.T @ directions, torch.eye(latent), rtol=0, atol=1e-4)
    assert (directions.T @ rest).abs().max() < 1e-3 if rest.numel() else True
    found = (encode(towers[0], query) @ encode(towers[1], item).T).numpy()
    expected = tfidf()
    assert np.isfinite(found).all()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.85
    if latent == len(WORDS):  # one direction for each word is exact
        np.testing.assert_allclose(found, expected, atol=0.3 if rest.numel() else 1e-4)


def test_idf_is_that_of_bm25() -> None:
    config = BagTower("bag", 8, 0, orders=(), buckets=4096)
    items = PreparedInputs(
        SCHEMA, "item", {"text": ["one two", "one one", "three", ""]}, architecture_of(config).hashing()
    )
    found = inverse_document_frequency(items, 4096)
    seen = {int(round(value, 3) * 1000) for value in found}
    expected = [math.log(1 + (4 - n + 0.5) / (n + 0.5)) for n in (0, 1, 2)]
    assert seen == {int(round(value, 3) * 1000) for value in expected}


def test_vocabularies_hold_values_of_training_rows_most_frequent_first() -> None:
    colour, tags = CategoryFeature("category", "c", min_count=2), CategoryFeature("category", "t", multi=True)
    schema = build_schema(
        {"text": TEXT, "colour": colour},
        {"text": TEXT, "tags": replace(tags, min_count=1)},
        {
            "query": {"text": [], "colour": ["red", "blue", None, "red", "green", "blue", "red"]},
            "item": {"text": [], "tags": [["b", "a"], None, [], ["a", "c"]]},
        },
        {"x": 3},
    )
    assert schema.vocabularies == {"query.colour": ("red", "blue"), "item.tags": ("a", "b", "c")}


def test_known_items_have_enough_training_interactions_most_frequent_first() -> None:
    history, counts = HistoryFeature("history"), {"a": 1, "b": 5, "c": 0, "d": 5, "e": 2}
    empty: Any = {"query": {}, "item": {}}
    for least, known in ((1, ("b", "d", "e", "a")), (2, ("b", "d", "e")), (6, ())):
        schema = build_schema({"past": history}, {"id": IdFeature("id", min_count=least)}, empty, counts)
        assert schema.vocabularies == {"items": known}
    without_ids = build_schema({"past": history}, {"text": TEXT}, empty, counts)
    assert without_ids.vocabularies["items"] == ("b", "d", "e", "a")
    assert build_schema({"text": TEXT}, {"text": TEXT}, empty, counts).vocabularies == {}


def test_numbers_are_standardised_by_the_rows_that_have_them() -> None:
    number = NumberFeature("number", "n")
    features: dict[str, FeatureSpec] = {"text": TEXT, "age": number, "same": number, "never": number}
    towers = architecture_of(BagTower("bag", 8, 0, buckets=64)).build(Schema({**features}, {**features}))
    values: dict[str, list[Any]] = {"text": [], "age": [1.0, None, 5.0], "same": [2.0, 2.0], "never": [None]}
    fit_number_encoders(towers[0], "query", {"query": values, "item": {}})
    found = {}
    for name, encoder in towers[0].encoders.items():
        if isinstance(encoder, NumberEncoder):
            found[name] = (float(encoder.mean), float(encoder.deviation))
    assert found == {"age": (3.0, 2.0), "same": (2.0, 1.0), "never": (0.0, 1.0)}
