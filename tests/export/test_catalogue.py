"""All items through the tower: each vector in its item's place, whatever the order of encoding."""

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from export.catalogue import BATCH, encode_all
from protos.features import Arrays, CategoryFeature, FeatureSpec, TextFeature, TowerInputs

FEATURES: dict[str, FeatureSpec] = {
    "text": TextFeature("text", "t", max_length=50),
    "tag": CategoryFeature("category", "c"),
}
INPUTS = TowerInputs("item", FEATURES, {"item.tag": ("a", "b")})


def letters(arrays: Arrays) -> Any:
    """A tower that sums code points and names the category."""
    text = arrays["text"].astype(np.float32)
    return np.stack([text.sum(axis=1), arrays["tag"][:, 0].astype(np.float32)], axis=1)


@pytest.mark.parametrize("count", [1, BATCH, BATCH + 1, 300])
def test_vectors_come_in_the_order_of_the_records(count: int, console: Console) -> None:
    rng = np.random.default_rng(0)
    texts = ["x" * int(rng.integers(0, 80)) + str(n) for n in range(count)]
    tags = [("a", "b", None)[n % 3] for n in range(count)]
    found = encode_all(letters, INPUTS, {"text": texts, "tag": tags}, console, "items")
    expected = [
        [sum(map(ord, text[:50])), {"a": 2, "b": 3, None: 0}[tag]]
        for text, tag in zip(texts, tags, strict=True)
    ]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_little_is_spent_on_padding(console: Console) -> None:
    widths = []

    def watched(arrays: Arrays) -> Any:
        widths.append(arrays["text"].shape)
        return letters(arrays)

    texts = ["long " * 9 if n % 2 else "short" for n in range(4 * BATCH)]
    encode_all(watched, INPUTS, {"text": texts, "tag": [None] * len(texts)}, console, "items")
    assert sorted(widths) == [(BATCH, 5)] * 2 + [(BATCH, 45)] * 2
