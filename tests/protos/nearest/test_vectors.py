"""Vectors are read as `rounded_vectors` predicts, and other files are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from twinspire.protos.bundle import SCALES, VECTORS, Precision
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.nearest.vectors import (
    BLOCK,
    PRECISIONS,
    int8_rows,
    read_vectors,
    rounded_vectors,
    write_merged,
    write_vectors,
)

COUNT, DIMENSION = BLOCK + 37, 24
Vectors = npt.NDArray[np.float32]


def unit_vectors(count: int = COUNT) -> Vectors:
    """Of unit length, one of them a zero vector, as an item without a word is."""
    drawn = np.random.default_rng(0).normal(size=(count, DIMENSION)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    drawn[5] = 0
    return drawn


def padded_vectors() -> Vectors:
    """Short ones, padded to unit length by their last coordinate."""
    inside = unit_vectors()[:, :-1] * 0.05
    missing = np.sqrt(1 - np.square(inside).sum(axis=1, keepdims=True))
    return np.hstack([inside, missing]).astype(np.float32)


@pytest.mark.parametrize("has_padding_dim", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_vectors_are_read_as_predicted_bit_for_bit(
    tmp_path: Path, precision: Precision, has_padding_dim: bool
) -> None:
    vectors = padded_vectors() if has_padding_dim else unit_vectors()
    write_vectors(tmp_path, vectors, precision, has_padding_dim)
    read = read_vectors(tmp_path, precision, COUNT, DIMENSION, has_padding_dim)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, rounded_vectors(vectors, precision, has_padding_dim))
    lengths = np.linalg.norm(vectors, axis=1)
    off = 1e-6 if precision != "fp16" else 5e-4  # int8 keeps the length, by its scale
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), lengths, atol=off)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        [VECTORS, SCALES] if precision == "int8" else [VECTORS]
    )


@pytest.mark.parametrize(
    ("precision", "share", "nearest"), [("fp32", 1, 1), ("fp16", 0.5, 1 - 5e-4), ("int8", 0.3, 1 - 1e-4)]
)
def test_lower_precision_is_smaller_and_nearly_the_same(
    tmp_path: Path, precision: Precision, share: float, nearest: float
) -> None:
    vectors = unit_vectors()
    write_vectors(tmp_path, vectors, precision)
    size = sum(each.stat().st_size for each in tmp_path.iterdir())
    assert 0.9 * share < size / vectors.nbytes < 1.02 * share
    read = read_vectors(tmp_path, precision, COUNT, DIMENSION)
    cosines = np.delete(np.einsum("nd,nd->n", vectors, read), 5)
    assert cosines.min() >= nearest - 1e-6
    assert not read[5].any()
    if precision != "fp32":
        assert (read != vectors).mean() > 0.9


def test_plain_vectors_are_the_file_that_numpy_writes(tmp_path: Path) -> None:
    write_vectors(tmp_path, unit_vectors(), "fp32")
    np.save(tmp_path / "as-numpy.npy", unit_vectors())
    assert (tmp_path / VECTORS).read_bytes() == (tmp_path / "as-numpy.npy").read_bytes()
    mapped = read_vectors(tmp_path, "fp32", COUNT, DIMENSION)
    assert not mapped.flags.writeable
    assert isinstance(mapped.base, np.memmap)


def test_the_padding_dimension_does_not_coarsen_the_others() -> None:
    vectors = padded_vectors()
    told, untold = (
        rounded_vectors(vectors, "int8", has_padding_dim)[:, :-1] for has_padding_dim in (True, False)
    )
    inside = vectors[:, :-1]
    assert np.abs(told - inside).max() < 0.1 * np.abs(untold - inside).max()


def test_int8_rows_use_the_whole_range_and_keep_zeros() -> None:
    rows, scales = int8_rows(np.array([[0.5, -1, 0], [0, 0, 0], [1e-30, 0, 0], [9, 1, 2]], np.float32))
    assert rows.tolist() == [[64, -127, 0], [0, 0, 0], [127, 0, 0], [127, 14, 28]]
    assert scales.dtype == np.float32
    np.testing.assert_allclose(scales, [1 / 127, 0, 1e-30 / 127, 9 / 127], rtol=1e-6)
    tiniest = np.arange(1, 400, dtype=np.float32)[:, None] * np.float32(1.4e-45)  # whose scales are coarse
    assert int8_rows(tiniest)[0].min() >= 0


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    write_vectors(tmp_path, unit_vectors(), "fp32")
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
        write_vectors(tmp_path, Failing(), "fp16")  # type: ignore[arg-type]
    assert [each.name for each in tmp_path.iterdir()] == [VECTORS]
    assert (tmp_path / VECTORS).read_bytes() == before


@pytest.mark.parametrize("name", [VECTORS, SCALES])
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, name: str) -> None:
    write_vectors(tmp_path, unit_vectors(), "int8")
    path = tmp_path / name
    whole = path.read_bytes()
    contents: dict[str, bytes] = {"cut": whole[:-1], "header": whole[:40], "empty": b"", "text": b"hello\n"}
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(BundleDamaged, match=name):
            read_vectors(tmp_path, "int8", COUNT, DIMENSION)
    foreign: list[Any] = [np.zeros((3, 2), np.int8), np.zeros(COUNT), np.array([{}])]
    for array in foreign:
        np.save(path, array, allow_pickle=True)
        with pytest.raises(BundleDamaged, match=name):
            read_vectors(tmp_path, "int8", COUNT, DIMENSION)
    with path.open("wb") as file:
        np.savez(file, vectors=unit_vectors())
    with pytest.raises(BundleDamaged, match=name):
        read_vectors(tmp_path, "int8", COUNT, DIMENSION)
    path.unlink()
    with pytest.raises(BundleDamaged, match=f"{name}: missing"):
        read_vectors(tmp_path, "int8", COUNT, DIMENSION)


@pytest.mark.parametrize("written", PRECISIONS)
def test_another_precision_or_size_than_was_written_is_refused(tmp_path: Path, written: Precision) -> None:
    write_vectors(tmp_path, unit_vectors(), written)
    for precision in PRECISIONS:
        if precision != written:
            with pytest.raises(BundleDamaged, match="expected"):
                read_vectors(tmp_path, precision, COUNT, DIMENSION)
    with pytest.raises(BundleDamaged, match="expected"):
        read_vectors(tmp_path, written, COUNT - 1, DIMENSION)
    with pytest.raises(BundleDamaged, match="expected"):
        read_vectors(tmp_path, written, COUNT, DIMENSION + 1)


@pytest.mark.parametrize("has_padding_dim", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_merged_vectors_keep_those_of_another_bundle_byte_for_byte(
    precision: Precision, has_padding_dim: bool, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(20_000, 12)).astype(np.float32)  # more than two blocks
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    old, fresh = vectors[:18_000], vectors[18_000:]
    source, folder = tmp_path / "old", tmp_path / "new"
    for each in (source, folder):
        each.mkdir()
    write_vectors(source, old, precision, has_padding_dim)
    origin = np.concatenate([random.permutation(18_000)[:15_000], np.full(2_000, -1)])
    random.shuffle(origin)
    write_merged(folder, source, origin, fresh, precision, len(old), has_padding_dim)
    kept = origin >= 0
    for name in ("vectors.npy", *(["vector_scales.npy"] if precision == "int8" else [])):
        before, after = np.load(source / name), np.load(folder / name)
        assert before[origin[kept]].tobytes() == after[kept].tobytes()
    found = read_vectors(folder, precision, len(origin), 12, has_padding_dim)
    expected = rounded_vectors(fresh, precision, has_padding_dim)
    assert np.array_equal(found[~kept], expected)
    with pytest.raises(BundleDamaged, match="expected"):
        write_merged(folder, source, origin, fresh, precision, len(old) + 1, has_padding_dim)
