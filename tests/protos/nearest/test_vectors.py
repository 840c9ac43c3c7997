"""Vectors are read as they were written, and other files are refused."""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.helpers.tiny import tiny_manifest
from tests.helpers.tiny_towers import TinyTower
from twinspire.protos.bundle import VECTORS, Manifest
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.nearest.vectors import (
    BLOCK,
    int8_rows,
    vectors_of,
    write_merged,
    write_vectors,
)

COUNT, DIMENSION = BLOCK + 37, 24
Vectors = npt.NDArray[np.float32]


def manifest(count: int, dimension: int) -> Manifest:
    return dataclasses.replace(tiny_manifest(20, TinyTower()), count=count, dimension=dimension)


def unit_vectors(count: int = COUNT) -> Vectors:
    """Of unit length, one of them a zero vector, as an item without a word is."""
    drawn = np.random.default_rng(0).normal(size=(count, DIMENSION)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    drawn[5] = 0
    return drawn


def test_plain_vectors_are_the_file_that_numpy_writes(tmp_path: Path) -> None:
    write_vectors(tmp_path, unit_vectors())
    np.save(tmp_path / "as-numpy.npy", unit_vectors())
    assert (tmp_path / VECTORS).read_bytes() == (tmp_path / "as-numpy.npy").read_bytes()
    mapped = vectors_of(tmp_path, manifest(COUNT, DIMENSION))
    assert not mapped.flags.writeable
    assert isinstance(mapped.base, np.memmap)


def test_int8_rows_use_the_whole_range_and_keep_zeros() -> None:
    rows, scales = int8_rows(np.array([[0.5, -1, 0], [0, 0, 0], [1e-30, 0, 0], [9, 1, 2]], np.float32))
    assert rows.tolist() == [[64, -127, 0], [0, 0, 0], [127, 0, 0], [127, 14, 28]]
    assert scales.dtype == np.float32
    np.testing.assert_allclose(scales, [1 / 127, 0, 1e-30 / 127, 9 / 127], rtol=1e-6)
    tiniest = np.arange(1, 400, dtype=np.float32)[:, None] * np.float32(1.4e-45)  # whose scales are coarse
    assert int8_rows(tiniest)[0].min() >= 0


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    write_vectors(tmp_path, unit_vectors())
    before = (tmp_path / VECTORS).read_bytes()

    class Failing:
        shape = (COUNT, DIMENSION)

        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, rows: slice) -> Vectors:
            if rows.start:
                raise OSError("the disk is gone")
            return unit_vectors()[rows]

    with pytest.raises(OSError, match="the disk is gone"):
        write_vectors(tmp_path, Failing())  # type: ignore[arg-type]
    assert [each.name for each in tmp_path.iterdir()] == [VECTORS]
    assert (tmp_path / VECTORS).read_bytes() == before


def test_a_damaged_file_or_one_of_another_size_is_refused(tmp_path: Path) -> None:
    """The headers that are refused are in test_npy_file.py."""
    write_vectors(tmp_path, unit_vectors())
    path = tmp_path / VECTORS
    for count, dimension in ((COUNT - 1, DIMENSION), (COUNT, DIMENSION + 1)):
        with pytest.raises(BundleDamaged, match="expected"):
            vectors_of(tmp_path, manifest(count, dimension))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleDamaged, match=VECTORS):
        vectors_of(tmp_path, manifest(COUNT, DIMENSION))
    np.save(path, unit_vectors().astype(np.float16))
    with pytest.raises(BundleDamaged, match=VECTORS):
        vectors_of(tmp_path, manifest(COUNT, DIMENSION))
    path.unlink()
    with pytest.raises(BundleDamaged, match=f"{VECTORS}: missing"):
        vectors_of(tmp_path, manifest(COUNT, DIMENSION))


def test_merged_vectors_keep_those_of_another_bundle_byte_for_byte(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(20_000, 12)).astype(np.float32)  # more than two blocks
    old, fresh = vectors[:18_000], vectors[18_000:]
    source, folder = tmp_path / "old", tmp_path / "new"
    for each in (source, folder):
        each.mkdir()
    write_vectors(source, old)
    origin = np.concatenate([random.permutation(18_000)[:15_000], np.full(2_000, -1)])
    random.shuffle(origin)
    write_merged(folder, source, origin, fresh, len(old))
    found, kept = vectors_of(folder, manifest(len(origin), 12)), origin >= 0
    assert found[kept].tobytes() == old[origin[kept]].tobytes()
    assert np.array_equal(found[~kept], fresh)
    with pytest.raises(BundleDamaged, match="expected"):
        write_merged(folder, source, origin, fresh, len(old) + 1)
