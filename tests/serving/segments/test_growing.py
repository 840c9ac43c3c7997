"""The live items of one bundle: what other threads see, what cannot be applied, which rows are compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.helpers.serving.segments import OtherItems, segment_of
from tests.helpers.tiny_towers import DIMENSION
from twinspire.protos.bundle import read_manifest
from twinspire.serving.client import where
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.growing import (
    FIRST_CAPACITY,
    OUTDATED,
    SHARE,
    BruteForceBuffer,
    GrowingSegment,
)
from twinspire.serving.segments.growing_columns import GrowingColumns
from twinspire.serving.segments.packed_items import EncodedItem, EncodedKind


def records(first: int, count: int) -> list[EncodedItem]:
    return [
        EncodedItem(n, f"item-{n}", EncodedKind.ITEM, b"", b"", np.full(DIMENSION, n, np.float32).tobytes())
        for n in range(first, first + count)
    ]


class Interrupted(GrowingSegment):
    """Its thread applies changes just when another thread reads `count`."""

    interrupt: Callable[[], None] | None = None

    def __getattribute__(self, name: str) -> Any:
        if name == "count" and (interrupt := super().__getattribute__("interrupt")) is not None:
            self.interrupt = None
            interrupt()
        return super().__getattribute__(name)


def test_vectors_that_another_thread_reads_are_all_rows_of_one_state() -> None:
    live = Interrupted(segment_of(OtherItems()))
    live.apply(records(0, FIRST_CAPACITY))
    live.interrupt = lambda: live.apply(records(FIRST_CAPACITY, 10))  # needs a larger array
    found = live.row_vectors
    assert found[:, 0].tolist() == [*range(FIRST_CAPACITY + 10)]


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"price": "number", "tags": "strings"}, b'{"price": 9, "tags": 7}'),
        ({"tags": "strings", "price": "number"}, b'{"price": "dear", "tags": ["y"]}'),
        ({"price": "number", "tags": "strings"}, b'{"price": 9, "tags": ["y", ["z"]]}'),
        ({"price": "number", "tags": "strings"}, b'{"price": [9], "tags": 7}'),
    ],
)
def test_values_of_which_one_cannot_be_set_change_nothing(schema: dict[str, str], values: bytes) -> None:
    columns = GrowingColumns(cast(Any, schema))
    columns.set(0, b'{"price": 1, "tags": ["x"]}')
    for row in (0, 1):
        with pytest.raises((TypeError, ValueError)):
            columns.set(row, values)
        price, tags = columns._columns["price"], cast(Any, columns._columns["tags"])
        assert cast(Any, price).present.to_array().tolist() == [0]
        assert (tags.present.to_array().tolist(), tags._held) == ([0], [("x",)])
        assert columns.evaluate(where.price == 1, 1).all()
        assert columns.evaluate(where.tags == "x", 1).all()
        assert not columns.evaluate(where.tags == "y", 1).any()


@pytest.fixture
def growing(plain: Path) -> GrowingSegment:
    return GrowingSegment(segment_of(Catalogue(plain, read_manifest(plain))))


def write(growing: GrowingSegment, *names: str) -> None:
    draw = np.random.default_rng(growing.count)
    vectors = draw.normal(size=(len(names), DIMENSION)).astype(np.float32)
    growing.apply(
        [
            EncodedItem(growing.count + n + 1, name, EncodedKind.ITEM, b"", b"{}", vector.tobytes())
            for n, (name, vector) in enumerate(zip(names, vectors, strict=True))
        ]
    )


def check(buffer: BruteForceBuffer, growing: GrowingSegment, first: int) -> int:
    """Check what is compared from a row on; returns the number of rows."""
    rows, vectors = buffer.since(first, growing.row_vectors, growing.alive, growing.dead_count)
    current = first + growing.alive[first : growing.count].nonzero()[0]
    assert set(current.tolist()) <= set(rows.tolist())
    assert rows.tolist() == sorted({*rows.tolist()})
    assert not len(rows) or rows[0] >= first
    np.testing.assert_array_equal(vectors, growing.row_vectors[rows])
    assert len(rows) - len(current) <= max(OUTDATED, len(rows) // SHARE)
    return len(rows)


def test_random_writes_deletes_and_graphs(growing: GrowingSegment) -> None:
    draw, buffer = np.random.default_rng(0), BruteForceBuffer(DIMENSION)
    first = 0
    for _ in range(300):
        write(growing, *{f"new-{n}" for n in draw.integers(400, size=draw.integers(1, 30))})
        if draw.random() < 0.3:
            gone = f"new-{draw.integers(400)}"
            growing.apply([EncodedItem(growing.count, gone, EncodedKind.DELETED)])
        if draw.random() < 0.05:  # a graph covers more rows
            first = int(draw.integers(first, growing.count + 1))
        if draw.random() < 0.5:
            check(buffer, growing, first)
    check(buffer, growing, 0)
