"""Rows that a search compares: all current ones, and few outdated ones, however often items are written."""

from pathlib import Path

import numpy as np
import pytest

from protos.bundle import read_manifest
from serving.live.record_format import Record, RecordKind
from serving.live.search.compared_rows import OUTDATED, SHARE
from serving.live.search.overlay import Overlay
from serving.retrieval.catalogue import Catalogue

DIMENSION = 4


@pytest.fixture
def overlay(plain: Path) -> Overlay:
    return Overlay(Catalogue(plain, read_manifest(plain)), DIMENSION)


def write(overlay: Overlay, *names: str) -> None:
    draw = np.random.default_rng(overlay.count)
    vectors = draw.normal(size=(len(names), DIMENSION)).astype(np.float32)
    overlay.apply(
        [
            Record(overlay.count + n + 1, name, RecordKind.ITEM, b"", b"{}", vector.tobytes())
            for n, (name, vector) in enumerate(zip(names, vectors, strict=True))
        ]
    )


def check(overlay: Overlay, first: int) -> int:
    """Check what is compared from a row on; returns the number of rows."""
    rows, vectors = overlay.compared.since(first)
    current = first + overlay.alive[first : overlay.count].nonzero()[0]
    assert set(current.tolist()) <= set(rows.tolist())
    assert rows.tolist() == sorted({*rows.tolist()})
    assert not len(rows) or rows[0] >= first
    np.testing.assert_array_equal(vectors, overlay.vectors[rows])
    assert len(rows) - len(current) <= max(OUTDATED, len(rows) // SHARE)
    return len(rows)


def test_an_item_that_is_written_again_and_again_is_compared_a_bounded_number_of_times(
    overlay: Overlay,
) -> None:
    names = [f"new-{n}" for n in range(50)]
    for _ in range(40):
        write(overlay, *names)
        assert check(overlay, 0) <= 50 + OUTDATED
    assert overlay.count == 2000


def test_random_writes_deletes_and_graphs(overlay: Overlay) -> None:
    draw = np.random.default_rng(0)
    first = 0
    for _ in range(300):
        write(overlay, *{f"new-{n}" for n in draw.integers(400, size=draw.integers(1, 30))})
        if draw.random() < 0.3:
            gone = f"new-{draw.integers(400)}"
            overlay.apply([Record(overlay.count, gone, RecordKind.DELETED)])
        if draw.random() < 0.05:  # a graph covers more rows
            first = int(draw.integers(first, overlay.count + 1))
        if draw.random() < 0.5:
            check(overlay, first)
    check(overlay, 0)
