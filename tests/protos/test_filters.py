"""Filter columns on disk: what is written is read, and what is damaged is refused."""

import dataclasses
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.tiny import FILTERS, filter_values, tiny_bundle, tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos import bundle
from twinspire.protos.bundle import FILTERS as FILE
from twinspire.protos.bundle import Manifest
from twinspire.protos.errors import BundleDamaged, InvalidInput
from twinspire.protos.filter_kinds import EARLIEST, LATEST, parse_value
from twinspire.protos.filters import (
    StringColumn,
    build_column,
    build_columns,
    column_values,
    read_filters,
    write_filters,
)


def manifest(items: int = 50, **filters: Any) -> Manifest:
    return tiny_manifest(items, TinyTower(), filters=filters or dict(FILTERS))


def test_columns_are_read_as_they_were_written(tmp_path: Path) -> None:
    columns = build_columns(FILTERS, filter_values(50))
    write_filters(tmp_path, columns)
    found = read_filters(tmp_path, manifest())
    assert set(found) == set(columns)
    for name, column in columns.items():
        assert type(found[name]) is type(column)
        for field, array in vars(column).items():
            np.testing.assert_array_equal(getattr(found[name], field), array)


def test_a_column_gives_back_the_values_that_it_was_made_of() -> None:
    items = filter_values(50)
    for name, kind in FILTERS.items():
        values = [parse_value(kind, each.get(name), name) for each in items]
        found = column_values(build_column(kind, values), 50)
        as_tuples = [(each,) if isinstance(each, str) else each for each in values]
        assert found == [tuple(sorted(each)) if isinstance(each, tuple) else each for each in as_tuples]
        again = build_column(kind, found)
        for field, array in vars(build_column(kind, values)).items():
            np.testing.assert_array_equal(getattr(again, field), array)


def test_the_manifest_of_a_bundle_without_filters_stays_as_it_was(tmp_path: Path) -> None:
    assert b'"filters"' not in tiny_manifest(50, TinyTower()).to_bytes()
    folder = tiny_bundle(tmp_path, filters=FILTERS)
    assert bundle.read(folder).filters == FILTERS
    (folder / FILE).unlink()
    with pytest.raises(BundleDamaged, match=FILE):
        bundle.read(folder)


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 to 64, got 65"):
        manifest(50, **dict.fromkeys([f"f{n}" for n in range(65)], "number"))


CHANGES: list[tuple[str, Any]] = [
    ("0.rows", np.array([3, 99], np.uint32)),  # price: below the number of items
    ("0.rows", np.array([3, 3], np.uint32)),
    ("0.rows", np.array([3, 4], np.int64)),
    ("0.rows", np.array([[3, 4]], np.uint32)),
    ("0.values", np.array([1.0], np.float64)),
    ("0.values", np.array([2.0, 1.0], np.float64)),
    ("0.values", np.array([1.0, np.nan], np.float64)),
    ("1.values", np.array([0, 2], np.int8)),  # sale
    ("2.text", np.frombuffer(b"ba", np.uint8)),  # section: strings ascending
    ("2.text", np.frombuffer(b"aa", np.uint8)),
    ("2.ends", np.array([1, 3], np.int64)),
    ("2.ends", np.array([2, 1], np.int64)),
    ("2.starts", np.array([0, 1], np.int64)),
    ("2.starts", np.array([0, 2, 1], np.int64)),
    ("2.starts", np.array([1, 1, 2], np.int64)),  # the first string would belong to no row
    ("2.text", np.frombuffer(b"a\xff", np.uint8)),  # no UTF-8
    ("2.rows", np.array([5, 5], np.uint32)),
    ("9.rows", np.array([5], np.uint32)),
    ("0.values", None),
]


@pytest.mark.parametrize(("name", "array"), CHANGES)
def test_a_damaged_column_is_refused(tmp_path: Path, name: str, array: Any) -> None:
    items: list[dict[str, Any]] = [{"price": 1, "sale": True, "section": "a"}]
    items.append({"price": 2, "sale": False, "section": "b"})
    kinds: Any = {"price": "number", "sale": "boolean", "section": "string"}
    write_filters(tmp_path, build_columns(kinds, items))
    assert read_filters(tmp_path, manifest(2, **kinds))
    with np.load(tmp_path / FILE) as file:
        arrays = {**file}
    arrays[name] = array
    kept = {key: value for key, value in arrays.items() if value is not None}
    np.savez(tmp_path / FILE, allow_pickle=False, **kept)
    with pytest.raises(BundleDamaged, match=FILE):
        read_filters(tmp_path, manifest(2, **kinds))


def test_compressed_and_pickled_arrays_are_refused(tmp_path: Path) -> None:
    columns = build_columns({"a": "string"}, [{"a": "b"}])
    column = columns["a"]
    assert isinstance(column, StringColumn)
    arrays = {f"0.{field.name}": getattr(column, field.name) for field in dataclasses.fields(column)}
    np.savez_compressed(tmp_path / FILE, **arrays)
    with pytest.raises(BundleDamaged, match="compressed"):
        read_filters(tmp_path, manifest(1, a="string"))
    np.savez(tmp_path / FILE, **{**arrays, "0.rows": np.array([{}], object)})
    with pytest.raises(BundleDamaged, match="pickle"):
        read_filters(tmp_path, manifest(1, a="string"))
    (tmp_path / FILE).write_bytes(b"no archive")
    with pytest.raises(BundleDamaged, match="zip"):
        read_filters(tmp_path, manifest(1, a="string"))
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        archive.writestr("0.rows.npy", b"short")
    with pytest.raises(BundleDamaged):
        read_filters(tmp_path, manifest(1, a="string"))


@pytest.mark.parametrize("raw", [{"red": 3}, {}, iter(["red"]), (each for each in ("red", 3))])
def test_a_mapping_or_an_iterator_is_no_list_of_strings(raw: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^tags: expected strings, got ") as caught:
        parse_value("strings", raw, "tags")
    assert caught.value.field == "tags"


@pytest.mark.parametrize("raw", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_date_outside_of_the_years_1_to_9999_of_utc_is_refused(raw: str) -> None:
    for each in (raw, datetime.fromisoformat(raw)):
        with pytest.raises(InvalidInput, match=r"^released: expected a time in the years 1 to 9999 of UTC"):
            parse_value("time", each, "released")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("0001-01-01", datetime(1, 1, 1, tzinfo=UTC)),
        ("0001-01-01T05:00:00+05:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999", datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)),
    ],
)
def test_the_first_and_the_last_time_are_taken(raw: str, expected: datetime) -> None:
    found = parse_value("time", raw, "released")
    assert found == parse_value("time", expected, "released")
    assert isinstance(found, int)
    assert EARLIEST <= found <= LATEST
