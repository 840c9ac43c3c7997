"""Raw values become arrays in the same way in every stage."""

import math
from typing import Any

import numpy as np
import pytest

from twinspire.protos.errors import InvalidInput
from twinspire.protos.features import (
    CategoryFeature,
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


def test_a_table_leaves_out_an_optional_field_at_its_default() -> None:
    text = TextFeature("text", column="text")
    assert to_table(text) == {"kind": "text", "column": "text", "catalogue_column": ""}
    with pytest.raises(ValueError, match="input: expected one of 'code_points', 'tokens', 'both'"):
        parse({**to_table(text), "input": "sounds"}, TextFeature)
