"""Vectors are in the order of the items, whatever the batches; all file formats give the same records."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.helpers.tiny import SYLLABLES
from tests.helpers.tiny_towers import PLAIN
from twinspire.export.encoding.encoding import BATCH, encode_all
from twinspire.export.encoding.records import WINDOW, TableRecords
from twinspire.export.onnx.runtimes import LARGEST_BATCH
from twinspire.protos.errors import DataError, InvalidInput
from twinspire.protos.features import (
    Arrays,
    CategoryFeature,
    FeatureSpec,
    IdFeature,
    NumberFeature,
    TextFeature,
    TowerInputs,
)
from twinspire.train.data.item_table import ItemTable

FEATURES: dict[str, FeatureSpec] = {
    "text": TextFeature("text", "t", max_length=50),
    "tag": CategoryFeature("category", "c"),
}
INPUTS = TowerInputs("item", FEATURES, {"item.tag": ("a", "b")})


def documents(count: int, seed: int = 0) -> list[str]:
    """Seeded pseudo-words, 2 to 60 characters."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 21, count)
    letters = iter(random.choice(SYLLABLES, int(lengths.sum())).tolist())
    return [" ".join(next(letters) for _ in range(length)) for length in lengths]


def letters(arrays: Arrays) -> Any:
    """A tower that sums code points and names the category."""
    text = arrays["text"].astype(np.float32)
    return np.stack([text.sum(axis=1), arrays["tag"][:, 0].astype(np.float32)], axis=1)


@pytest.mark.parametrize("count", [1, WINDOW + BATCH + 1])
def test_vectors_come_in_the_order_of_the_records(count: int) -> None:
    rng = np.random.default_rng(0)
    texts = ["x" * int(rng.integers(0, 80)) + str(n) for n in range(count)]
    tags = [("a", "b", None)[n % 3] for n in range(count)]
    found = encode_all(letters, INPUTS, {"text": texts, "tag": tags}, "items")
    expected = [
        [sum(map(ord, text[:50])), {"a": 2, "b": 3, None: 0}[tag]]
        for text, tag in zip(texts, tags, strict=True)
    ]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_batches_of_long_texts_have_few_records() -> None:
    shapes = []

    def watched(arrays: Arrays) -> Any:
        shapes.append(arrays["text"].shape)
        return letters(arrays)

    features = FEATURES | {"text": TextFeature("text", "t", max_length=2 * LARGEST_BATCH)}
    inputs = TowerInputs("item", features, {"item.tag": ("a", "b")})
    texts = ["x" * (LARGEST_BATCH // 4)] * 9 + ["y" * (LARGEST_BATCH + 1)] * 2 + ["z" * 10]
    encode_all(watched, inputs, {"text": texts, "tag": [None] * len(texts)}, "items")
    quarter, more = LARGEST_BATCH // 4, LARGEST_BATCH + 1
    assert shapes == [(4, quarter), (4, quarter), (2, quarter), (1, more), (1, more)]


def test_a_bad_value_is_named_by_its_row() -> None:
    texts: list[Any] = documents(300)
    for row in (250, 171):  # the shortest there is comes first, whatever its row
        texts[row] = None
    values = {"text": texts, "tag": ["a"] * 300}
    with pytest.raises(InvalidInput, match=r"item\.text: row 172 of items: expected a string, got NoneType"):
        encode_all(letters, INPUTS, values, "items")


def write_table(frame: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")


SERVED: dict[str, FeatureSpec] = {
    "text": TextFeature("text", "text", catalogue_column="full_text"),
    "tags": CategoryFeature("category", "tags", multi=True),
    "price": NumberFeature("number", "price"),
    "id": IdFeature("id"),
}


def table(rows: int) -> pl.DataFrame:
    texts = documents(rows, seed=1)
    numbers = [None if n % 3 else n / 4 for n in range(rows)]
    tags = [("a|b", "c", None)[n % 3] for n in range(rows)]
    ids = [f"{n:06}" for n in range(rows)]
    return pl.DataFrame({"sku": ids, "full_text": texts, "tags": tags, "price": numbers, "other": texts})


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl"])
def test_every_file_format_gives_the_same_records_from_any_row(ending: str, tmp_path: Path) -> None:
    frame = table(1000)
    write_table(frame, tmp_path / f"items.{ending}")
    records = TableRecords(tmp_path / f"items.{ending}", SERVED, ItemTable("sku"))
    assert len(records) == 1000
    expected = {
        "text": frame["full_text"].to_list(),
        "tags": [(["a", "b"], ["c"], [])[n % 3] for n in range(1000)],
        "price": frame["price"].to_list(),
        "id": frame["sku"].to_list(),
    }
    for first in (0, 300, 600, 1000):
        found: dict[str, list[Any]] = {name: [] for name in SERVED}
        for values in records.slices(300, first):
            for name, column in values.items():
                found[name] += column
        assert found == {name: column[first:] for name, column in expected.items()}


def lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


GOOD = [{"text": f"text {n}", "price": None} for n in range(WINDOW + 10)]
TABLE = "\n".join(["text,price", *(f"text {n}," for n in range(WINDOW + 10))]).encode()
FAULTS: dict[str, tuple[str, bytes, str]] = {
    "short row": ("csv", TABLE + b"\nshort\n", f"row {WINDOW + 11} .ends on line {WINDOW + 12}.: expected 2"),
    "no text": ("csv", TABLE + b'\n" ",1', f"row {WINDOW + 11}, column 'text': expected text, got ' '"),
    "no number": ("csv", TABLE + b"\nlast,x", f"row {WINDOW + 11}, column 'price': expected a finite number"),
    "no UTF-8": ("csv", TABLE + b"\n\xff,1", f"line {WINDOW + 12}: expected utf-8"),
    "no column": ("csv", TABLE.replace(b"price", b"prize"), "column 'price' is missing; .* text, prize"),
    "no JSON": ("jsonl", lines(GOOD) + b"{", f"row {WINDOW + 11}: not valid JSON"),
    "another type": (
        "jsonl",
        lines([*GOOD, {"text": 3}]),
        f"row {WINDOW + 11}, column 'text': expected a string as in the rows before, got 3",
    ),
    "no Parquet": ("parquet", b"PAR1", "not a readable Parquet file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_invalid_file_is_refused_with_its_row_before_encoding(fault: str, tmp_path: Path) -> None:
    ending, content, expected = FAULTS[fault]
    path = tmp_path / f"items.{ending}"
    path.write_bytes(content)
    features = {name: SERVED[name] for name in ("text", "price")} | {"text": PLAIN["text"]}
    with pytest.raises(DataError, match=rf"items\.{ending}: .*{expected}"):
        TableRecords(path, features)


def test_a_key_may_first_appear_in_a_late_row(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_bytes(lines([{"text": "a"}] * WINDOW + [{"text": "b", "price": 2}]))
    features = {"text": PLAIN["text"], "price": SERVED["price"]}
    *_, last = TableRecords(tmp_path / "items.jsonl", features).slices(WINDOW)
    assert last == {"text": ["b"], "price": [2.0]}


def test_ids_are_read_with_the_casts_of_the_experiment(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"sku": [7.0, 8.0]}).write_parquet(path)
    features = {"id": SERVED["id"]}
    plain = ItemTable("sku", casts_key="item_casts")
    with pytest.raises(DataError, match=r'expected an id, got 7\.0; item_casts\."sku" = "id" in \[data\]'):
        TableRecords(path, features, plain)
    cast = TableRecords(path, features, replace(plain, casts={"sku": "id", "unread": "lower"}))
    assert [*cast.slices(1, 0)] == [{"id": ["7"]}, {"id": ["8"]}]
    pl.DataFrame({"sku": ["7", "8"]}).write_csv(tmp_path / "items.csv")
    text = TableRecords(tmp_path / "items.csv", features, plain)
    lower = TableRecords(tmp_path / "items.csv", features, replace(plain, casts={"sku": "lower"}))
    assert text.identity() != lower.identity()
