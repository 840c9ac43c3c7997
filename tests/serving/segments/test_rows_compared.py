"""Rows that a search compares: all current ones, and few outdated ones, however often items are written."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.serving.segments import segment_of
from twinspire.protos.bundle import read_manifest
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.growing import OUTDATED, SHARE, BruteForceBuffer, GrowingSegment
from twinspire.serving.segments.packed_items import EncodedItem, EncodedKind

DIMENSION = 4


@pytest.fixture
def growing(plain: Path) -> GrowingSegment:
    return GrowingSegment(segment_of(Catalogue(plain, read_manifest(plain))), DIMENSION)


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
