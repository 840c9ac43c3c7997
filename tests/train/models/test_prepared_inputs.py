"""Records encoded once and gathered by row equal records that are encoded batch by batch."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from twinspire.protos.features import CategoryFeature, FeatureSpec, NumberFeature, Schema, TextFeature
from twinspire.train.models.encoders import TextBags
from twinspire.train.models.prepared_inputs import PreparedInputs, hash_texts
from twinspire.train.models.text_hashing import WordHashing

HASHING = WordHashing((2, 3), words=True, buckets=512)
TEXT = TextFeature("text", "text", max_length=20)


def counted(bags: TextBags) -> list[dict[int, float]]:
    """Row -> count of each text."""
    ends = [*bags.offsets.tolist()[1:], len(bags.rows)]
    return [
        dict(zip(bags.rows[at:end].tolist(), bags.counts[at:end].tolist(), strict=True))
        for at, end in zip(bags.offsets.tolist(), ends, strict=True)
    ]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.data())
def test_a_batch_holds_the_texts_of_its_index(texts: list[str], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=8))
    corpus = hash_texts(texts, 20, HASHING)
    found = counted(corpus.bags(np.array(index)))
    for n, row in enumerate(index):
        rows = HASHING(torch.from_numpy(Schema({"t": TEXT}, {"t": TEXT}).side("query").to_arrays(
            {"t": [texts[row]]}
        )["t"]))  # fmt: skip
        expected = Counter(rows[rows > 0].tolist())
        assert found[n] == expected


def test_categories_and_numbers_are_gathered_by_row() -> None:
    features: dict[str, FeatureSpec] = {
        "text": TEXT,
        "tags": CategoryFeature("category", "tags", multi=True),
        "price": NumberFeature("number", "price"),
    }
    schema = Schema({"text": TEXT}, features, {"item.tags": ("a", "b")})
    values: dict[str, list[Any]] = {
        "text": ["x", "y", "z"],
        "tags": [["a", "b"], [], ["c"]],
        "price": [1.5, None, 2.0],
    }
    corpus = PreparedInputs(schema, "item", values, HASHING)
    assert len(corpus) == 3
    batch = corpus.batch(np.array([2, 0]))
    assert isinstance(batch["text"], TextBags)
    tags, price = batch["tags"], batch["price"]
    assert isinstance(tags, torch.Tensor)
    assert isinstance(price, torch.Tensor)
    assert tags.tolist() == [[1, 0], [2, 3]]
    assert price.tolist() == [[2.0], [1.5]]


def test_one_text_alone_has_another_name_and_the_same_words() -> None:
    features: dict[str, FeatureSpec] = {
        "title": TEXT,
        "text": TEXT,
        "price": NumberFeature("number", "price"),
    }
    values: dict[str, list[Any]] = {"title": ["a", "b"], "text": ["x y", "z"], "price": [1.5, None]}
    corpus = PreparedInputs(Schema({"text": TEXT}, features), "item", values, HASHING)
    alone = corpus.only_text("text", "query")
    batch = alone.batch(np.array([1, 0]))
    assert len(alone) == 2
    assert list(batch) == ["query"]
    given = corpus.batch(np.array([1, 0]))
    assert set(given) == {"title", "text", "price"}
    bags, expected = batch["query"], given["text"]
    assert isinstance(bags, TextBags)
    assert isinstance(expected, TextBags)
    assert counted(bags) == counted(expected)
