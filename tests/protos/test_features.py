"""Raw values become arrays in the same way in every stage."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import (
    TEXT_INPUTS,
    Array,
    CategoryFeature,
    Converter,
    FeatureSpec,
    NumberFeature,
    Schema,
    TextFeature,
    TimeFeature,
    TowerInputs,
)
from twinspire.protos.inputs.events import LATEST
from twinspire.protos.toml_config import parse, to_table


def inputs(max_length: int = 8) -> TowerInputs:
    text = TextFeature("text", column="text", max_length=max_length)
    features: dict[str, FeatureSpec] = {
        "text": text,
        "country": CategoryFeature("category", column="country"),
        "tags": CategoryFeature("category", column="tags", multi=True),
        "age": NumberFeature("number", column="age"),
        "asked": TimeFeature("time"),
    }
    vocabularies: dict[str, tuple[str, ...]] = {
        "query.country": ("de", "fr"),
        "query.tags": ("new", "old"),
    }
    return Schema(features, {"text": text}, vocabularies).side("query")


def arrays(**values: list[Any]) -> dict[str, Any]:
    count = len(next(iter(values.values())))
    blank: dict[str, list[Any]] = {
        "text": [""] * count,
        "country": [None] * count,
        "tags": [None] * count,
        "age": [None] * count,
        "asked": [None] * count,
    }
    return inputs().to_arrays({**blank, **values})


def test_a_text_is_cut_after_folding() -> None:
    values = {name: ["ﬃx"] if name == "text" else [None] for name in inputs().features}
    assert inputs(max_length=3).to_arrays(values)["text"].tolist() == [[*map(ord, "ffi")]]


def test_a_served_text_is_read_from_the_column_of_the_catalogue_alone() -> None:
    text = TextFeature("text", "title", 64, "full_title")
    assert text.serves_other_text
    assert text.as_served() == TextFeature("text", "full_title", 64)
    for same in (TextFeature("text", "title", 64), TextFeature("text", "title", 64, "title")):
        assert not same.serves_other_text
        assert same.as_served() == TextFeature("text", "title", 64)


def test_an_empty_text_is_one_column_of_padding() -> None:
    assert arrays(text=["", ""])["text"].tolist() == [[0], [0]]


def test_categories_are_rows_of_the_vocabulary() -> None:
    found = arrays(country=["de", "fr", "es", None])["country"]
    assert found.dtype == np.int64
    assert found.tolist() == [[2], [3], [1], [0]]


def test_several_categories_are_padded() -> None:
    found = arrays(tags=[["old"], ["new", "?", "old"], [], None])["tags"]
    assert found.tolist() == [[3, 0, 0], [2, 1, 3], [0, 0, 0], [0, 0, 0]]


def test_an_absent_number_is_nan() -> None:
    found = arrays(age=[3, 1.5, None, math.nan])["age"]
    assert (found.dtype, found.shape) == (np.float32, (4, 1))
    np.testing.assert_array_equal(found[:, 0], np.array([3, 1.5, np.nan, np.nan], np.float32))


def test_a_time_is_whole_seconds_and_an_absent_one_is_after_all_others() -> None:
    found = arrays(asked=[1_700_000_000.9, 0, -0.5, None, 1e12])["asked"]
    assert (found.dtype, found.shape) == (np.int64, (5, 1))
    assert found[:, 0].tolist() == [1_700_000_000, 0, -1, LATEST, 10**12]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", None),
        ("text", 7),
        ("country", 7),
        ("country", ["de"]),
        ("tags", "new"),
        ("tags", 7.0),
        ("tags", ["new", None]),
        ("age", "3"),
        ("age", True),
        ("age", math.inf),
        ("age", -1e39),
        ("age", 10**400),
        ("asked", "2026-01-01"),
        ("asked", True),
        ("asked", math.nan),
        ("asked", math.inf),
        ("asked", 1.1e12),
        ("asked", 10**400),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        arrays(**{name: [value]})
    assert caught.value.field == f"query.{name}"


def test_a_tower_takes_at_least_one_feature() -> None:
    with pytest.raises(ValueError, match="item: expected at least one feature"):
        Schema({"age": NumberFeature("number", column="age")}, {})


@pytest.mark.parametrize("max_length", [0, 65_537])
def test_max_length_has_bounds(max_length: int) -> None:
    with pytest.raises(ValueError, match="max_length"):
        TextFeature("text", column="text", max_length=max_length)


class WordIds:
    """A text input that reads its vocabulary, one word a line, from a file."""

    dtype: type[np.generic] = np.int64

    def files(self, spec: TextFeature) -> tuple[str, ...]:
        return ("tokenizers/words.txt",)

    def converter(self, spec: TextFeature, folder: Path) -> Converter:
        words = (folder / "tokenizers/words.txt").read_text().split()

        def convert(texts: Sequence[Any], field_name: str) -> Array:
            rows = [[words.index(word) + 1 for word in text.split()] for text in texts]
            return np.array([row + [0] * (spec.max_length - len(row)) for row in rows], np.int64)

        return convert


def test_a_text_input_reads_its_files_from_the_folder_of_the_run_or_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEXT_INPUTS, "words", WordIds())
    text = TextFeature("text", column="text", max_length=3, input="words")
    schema = Schema({"text": text}, {"text": TextFeature("text", column="text")})
    assert schema.files() == ("tokenizers/words.txt",)
    (tmp_path / "source" / "tokenizers").mkdir(parents=True)
    (tmp_path / "source" / "tokenizers" / "words.txt").write_text("red\ngreen\n")
    schema.in_folder(tmp_path / "source").copy_files(tmp_path / "bundle")
    placed = schema.in_folder(tmp_path / "bundle")
    assert placed == schema
    assert placed.side("query").to_arrays({"text": ["green red", ""]})["text"].tolist() == [
        [2, 1, 0],
        [0] * 3,
    ]
    assert to_table(schema)["query"]["text"]["input"] == "words"
    assert parse(to_table(schema), Schema) == schema


def test_a_table_leaves_out_an_optional_field_at_its_default() -> None:
    text = TextFeature("text", column="text")
    assert to_table(text) == {"kind": "text", "column": "text", "catalogue_column": ""}
    with pytest.raises(ValueError, match="input: expected one of code_points, tokens, both, got 'sounds'"):
        TextFeature("text", column="text", input="sounds")
