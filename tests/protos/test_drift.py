"""What is measured of queries and items for drift, and the file that holds it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.tiny import tiny_bundle
from twinspire.protos import bundle
from twinspire.protos.bundle import DRIFT
from twinspire.protos.drift import OTHER, DriftReference, measures, query_measures, word_bits
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.features import (
    CategoryFeature,
    FeatureSpec,
    HistoryFeature,
    NumberFeature,
    TextFeature,
    TimeFeature,
    TowerInputs,
)

FEATURES: dict[str, FeatureSpec] = {
    "text": TextFeature("text", "query", 20),
    "device": CategoryFeature("category", "device"),
    "tags": CategoryFeature("category", "tags", multi=True),
    "budget": NumberFeature("number", "budget"),
    "history": HistoryFeature("history", 3),
    "asked": TimeFeature("time"),
}
CATEGORIES = {"query.device": ["phone", "desktop"], "query.tags": ["red"]}
VOCABULARIES = {"query.device": ("phone", "desktop"), "query.tags": ("red",), "items": ("a", "b")}
INPUTS = TowerInputs("query", FEATURES, VOCABULARIES)


def reference(width: int = 4, words: Any = None) -> DriftReference:
    """One without queries and items."""
    empty = np.empty((0, 0), np.float32)
    known = word_bits(["read a table"]) if words is None else words
    directions = np.eye(2, width, dtype=np.float32)
    return DriftReference(empty, empty, empty, empty, np.empty(0, np.int64), known, directions, CATEGORIES)


def test_each_kind_of_feature_has_its_measures() -> None:
    names = [each.name for each in measures(INPUTS, CATEGORIES, b"\0")]
    assert names == [
        *("text.length", "text.unknown_words", "device", "tags", "budget"),
        *("history.length", "history.unknown_items"),
    ]
    assert "text.unknown_words" not in [each.name for each in measures(INPUTS, CATEGORIES)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"text": "Read tables", "device": "desktop", "tags": ["red", "new"], "budget": 2.5},
            [11, 0.5, 1, 0, 2.5, 0, math.nan],
        ),
        (
            {"text": "", "device": "watch", "tags": ["new", "red"], "history": ["a", "gone"]},
            [0, math.nan, OTHER, OTHER, math.nan, 2, 0.5],
        ),
        (
            {"text": "读 " * 20, "device": None, "tags": [], "history": [["a", 5.0], ["b", 6.0], "b", "b"]},
            [20, 1.0, math.nan, math.nan, math.nan, 3, 0.0],
        ),
    ],
)
def test_a_query_is_measured(values: dict[str, Any], expected: list[float]) -> None:
    vector = np.array([1, -2, 3, 4], np.float32)
    found = query_measures(INPUTS, reference())({"history": None, **values}, vector)
    assert found == pytest.approx([*expected, 1.0, -2.0], nan_ok=True)


def test_most_words_that_are_not_known_are_told_from_known_ones() -> None:
    words = [f"word{n}" for n in range(50_000)]
    bits = word_bits([" ".join(words)])
    (share,) = [
        each.of for each in measures(INPUTS, CATEGORIES, bits.tobytes()) if each.name == "text.unknown_words"
    ]
    assert not any(share(word) for word in words[:1000])
    assert np.mean([share(f"other{n}") for n in range(2000)]) > 0.85
    assert len(bits) < 1 << 17


def test_a_reference_is_written_and_read(tmp_path: Path) -> None:
    manifest = bundle.read_manifest(tiny_bundle(tmp_path))
    made = reference(manifest.width("query"))
    folder = tiny_bundle(tmp_path / "with", drift=made)
    found = DriftReference.read(folder, bundle.read(folder))
    assert found is not None
    assert found.categories == CATEGORIES
    assert np.array_equal(found.words, made.words)
    assert DriftReference.read(tmp_path, manifest) is None


@pytest.mark.parametrize("made", [reference(width=3), reference(32, np.empty(0, np.uint8))])
def test_a_reference_that_does_not_fit_is_damaged(tmp_path: Path, made: DriftReference) -> None:
    folder = tiny_bundle(tmp_path, drift=made)
    with pytest.raises(BundleDamaged, match=DRIFT):
        DriftReference.read(folder, bundle.read(folder))


def test_a_file_that_is_no_archive_is_damaged(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, drift=reference(32))
    manifest = bundle.read(folder)
    (folder / DRIFT).write_bytes(b"nothing")
    with pytest.raises(BundleDamaged, match=DRIFT):
        DriftReference.read(folder, manifest)
