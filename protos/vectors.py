"""Item vectors on the disk: as they are, or rounded to a half or a quarter of the room.

    vectors.npy           (N, D): float32, float16 or int8
    vector_scales.npy     float32 (N,), beside int8 alone: what a row of whole numbers is multiplied by

Whatever lies on the disk is read as float32. `rounded_vectors` gives, bit for bit, what will be read back, so
that a graph can be built over the very vectors that it is served beside. Each value that is read back is one
float32 product, which every processor rounds alike; the coordinate that `filled` adds is a sum, and is equal
only on one processor.

A row of int8 keeps the length of the row that it was rounded from: its scale is the quotient of the two
lengths, so scores stay cosines. float16 changes a length by less than 0.0005, and is left as it is.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.bundle import SCALES, VECTORS, Precision, whole_file
from protos.errors import BundleDamaged

Vectors = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int8]

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
HIGHEST = 127  # of int8; -128 is not used, so that rounding knows no sign
BLOCK = 8192  # rows that are converted at a time
LENGTH_TOLERANCE = 0.01  # float16 changes a length by less than 0.0005, int8 by less than 0.004
_TYPES: dict[Precision, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}


def int8_rows(rows: Vectors) -> tuple[Whole, Vectors]:
    """Rows (N, D) as whole numbers from -127 to 127, and the scale (N,) that brings each row back.

    The largest coordinate of a row becomes 127; a row of zeros stays one, and has the scale 0.
    """
    scales = np.abs(rows).max(axis=1, initial=0) / np.float32(HIGHEST)
    divisors = np.where(scales > 0, scales, np.float32(np.inf))
    wholes = np.rint(rows / divisors[:, None])
    return np.clip(wholes, -HIGHEST, HIGHEST).astype(np.int8), scales  # the scale of a tiny row is coarse


def rounded_vectors(vectors: Vectors, precision: Precision, filled: bool = False) -> Vectors:
    """What `read_vectors` gives of vectors (N, D) that `write_vectors` has written: float32 (N, D).

    Args:
        filled: the last coordinate is what a row of unit length lacks, as where scores are not cosines. It
            often is by far the largest; int8 then rounds the others alone, and fills up anew.
    """
    if precision == "fp32":
        return vectors
    found = np.empty(vectors.shape, np.float32)
    for rows in _blocks(len(vectors)):
        if precision == "fp16":
            found[rows] = vectors[rows].astype(np.float16)
        else:
            _restore(*_int8(vectors[rows], filled), filled, found[rows])
    return found


def write_vectors(folder: Path, vectors: Vectors, precision: Precision, filled: bool = False) -> None:
    """Write vectors (N, D) into a bundle's folder, a block at a time; each file whole or not at all.

    Args:
        filled: as `rounded_vectors` has it.
    """
    if precision == "int8":
        scales = [_int8(vectors[rows], filled)[1] for rows in _blocks(len(vectors))]
        _write(folder / SCALES, np.dtype(np.float32), (len(vectors),), scales)
        blocks: Any = (_int8(vectors[rows], filled)[0] for rows in _blocks(len(vectors)))
    else:
        blocks = (vectors[rows].astype(_TYPES[precision]) for rows in _blocks(len(vectors)))
    _write(folder / VECTORS, _TYPES[precision], vectors.shape, blocks)


def read_vectors(
    folder: Path, precision: Precision, count: int, dimension: int, filled: bool = False
) -> Vectors:
    """Vectors (N, D) of a bundle: float32 mapped from its file, others brought back a block at a time.

    What is mapped is shared by all processes that map it; what is brought back is this process's own.

    Args:
        count: N.
        dimension: D.
        filled: as `rounded_vectors` has it.

    Raises:
        BundleDamaged: a file is missing, or is not that of so many vectors in this precision.
    """
    stored = _read(folder / VECTORS, _TYPES[precision], (count, dimension))
    if precision == "fp32":
        mapped: Vectors = stored
        return mapped
    scales = _read(folder / SCALES, _TYPES["fp32"], (count,)) if precision == "int8" else None
    found = np.empty((count, dimension), np.float32)
    for rows in _blocks(count):
        if scales is None:
            found[rows] = stored[rows]
        else:
            _restore(stored[rows], scales[rows], filled, found[rows])
    return found


def check_lengths(vectors: Vectors, filled: bool = False) -> None:
    """Check that each of the vectors (N, D) has length 1, within `LENGTH_TOLERANCE`.

    A tower encodes an item without any known feature as the zero vector. So vectors may be zero as long as at
    least one is not. With `filled` no vector may be zero, because the last coordinate makes its length 1.

    Args:
        filled: as `rounded_vectors` has it.

    Raises:
        ValueError: a vector is of another length or not finite, or all of them are zero.
    """
    zeros = 0
    for rows in _blocks(len(vectors)):
        lengths = np.linalg.norm(vectors[rows], axis=1)
        fits = np.abs(lengths - 1) <= LENGTH_TOLERANCE
        if not filled:
            fits |= lengths == 0
            zeros += int((lengths == 0).sum())
        if not fits.all():
            row = int(np.argmin(fits))
            raise ValueError(f"row {rows.start + row} has length {lengths[row]:g}, expected 1")
    if zeros == len(vectors):
        raise ValueError("all vectors are zero")


def _int8(vectors: Vectors, filled: bool) -> tuple[Whole, Vectors]:
    """Whole numbers (n, D) and scales (n,) that keep the length; with `filled` the last column is 0."""
    rows, end = np.zeros(vectors.shape, np.int8), -1 if filled else None
    rows[:, :end], scales = int8_rows(vectors[:, :end])
    if filled:  # the length that counts is that of the whole
        return rows, scales
    length, wholes = (np.linalg.norm(each.astype(np.float32), axis=1) for each in (vectors, rows))
    return rows, np.divide(length, wholes, out=np.zeros_like(scales), where=wholes > 0)


def _restore(rows: Whole, scales: Vectors, filled: bool, found: Vectors) -> None:
    """Put float32 (n, D) into `found`."""
    np.multiply(rows, scales[:, None], out=found)
    if filled:
        found[:, -1] = np.sqrt(np.maximum(0, 1 - np.square(found[:, :-1]).sum(axis=1)))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(at, at + BLOCK) for at in range(0, count, BLOCK))


def _write(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Any) -> None:
    """Write a `.npy` file as `numpy.save` does, without holding all of it."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with whole_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)


def _read(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """An array mapped from a file."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise BundleDamaged(f"{path}: missing") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleDamaged(f"{path}: {error}") from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise BundleDamaged(f"{path}: an archive of arrays, expected {dtype} {shape}")
    if found.dtype != dtype or found.shape != shape:
        raise BundleDamaged(f"{path}: {found.dtype} {found.shape}, expected {dtype} {shape}")
    return np.asarray(found)
