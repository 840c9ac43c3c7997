"""Item vectors on disk, float32 (N, D), and rows in int8, by which searches compare them.

`vectors.npy` is memory-mapped, so processes share the memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import VECTORS, Manifest, whole_file
from twinspire.protos.files.npy_file import map_array

Vectors = npt.NDArray[np.float32]
Int8Rows = npt.NDArray[np.int8]
Rows = npt.NDArray[np.int64]

HIGHEST = 127  # of int8; -128 is not used, so that rounding is symmetric
BLOCK = 8192  # rows converted at a time
LENGTH_TOLERANCE = 0.01


def int8_rows(rows: Vectors) -> tuple[Int8Rows, Vectors]:
    """Quantise rows (N, D) to -127..127, with a scale (N,) that restores each row.

    The largest coordinate of a row becomes 127. A row of zeros stays zero and has the scale 0.
    """
    scales = np.abs(rows).max(axis=1, initial=0) / np.float32(HIGHEST)
    divisors = np.where(scales > 0, scales, np.float32(np.inf))
    quantised = np.rint(rows / divisors[:, None])
    # The scale of a row of tiny numbers is coarse, so a quotient may exceed 127.
    return np.clip(quantised, -HIGHEST, HIGHEST).astype(np.int8), scales


def write_vectors(folder: Path, vectors: Vectors) -> None:
    """Write vectors (N, D) into a bundle's folder, a block at a time and atomically."""
    _write(folder / VECTORS, vectors.shape, (vectors[rows] for rows in _blocks(len(vectors))))


def write_merged(folder: Path, source: Path, origin: Rows, fresh: Vectors, count: int) -> None:
    """Write the vectors of a bundle of which some are those of another bundle, byte for byte.

    Args:
        source: folder of the other bundle.
        origin: int64 (N,): row of the other bundle, or -1 for the next fresh vector.
        fresh: float32 (n, D), one for each -1, in their order.
        count: of the other bundle's vectors.

    Raises:
        BundleDamaged: the other bundle does not hold `count` vectors of this dimension.
    """
    stored = map_array(source / VECTORS, np.float32, (count, fresh.shape[1]))
    before = np.concatenate([[0], np.cumsum(origin < 0)])  # fresh vectors before each row

    def merged(rows: slice) -> Vectors:
        of = origin[rows]
        block, is_old = np.empty((len(of), fresh.shape[1]), np.float32), of >= 0
        block[is_old] = stored[of[is_old]]
        block[~is_old] = fresh[before[rows.start] : before[rows.start] + np.count_nonzero(~is_old)]
        return block

    _write(folder / VECTORS, (len(origin), fresh.shape[1]), map(merged, _blocks(len(origin))))


def vectors_of(folder: Path, manifest: Manifest) -> Vectors:
    """The vectors (N, D) of a verified bundle, memory-mapped.

    Raises:
        BundleDamaged: the file is missing, or does not hold N vectors of dimension D.
    """
    mapped: Vectors = map_array(folder / VECTORS, np.float32, (manifest.count, manifest.dimension))
    return mapped


def check_lengths(vectors: Vectors, has_padding_dim: bool = False) -> None:
    """Check that each of the vectors (N, D) has length 1, within `LENGTH_TOLERANCE`.

    A tower encodes an item without any known feature as the zero vector. So vectors may be zero as long as at
    least one is not. With `has_padding_dim` no vector may be zero, because padding makes its length 1.

    Raises:
        ValueError: a vector has another length or is not finite, or all vectors are zero.
    """
    zeros = 0
    for rows in _blocks(len(vectors)):
        lengths = np.linalg.norm(vectors[rows], axis=1)
        fits = np.abs(lengths - 1) <= LENGTH_TOLERANCE
        if not has_padding_dim:
            fits |= lengths == 0
            zeros += int((lengths == 0).sum())
        if not fits.all():
            row = int(np.argmin(fits))
            raise ValueError(f"row {rows.start + row} has length {lengths[row]:g}, expected 1")
    if zeros == len(vectors):
        raise ValueError("all vectors are zero")


def _blocks(count: int) -> Iterator[slice]:
    return (slice(at, at + BLOCK) for at in range(0, count, BLOCK))


def _write(path: Path, shape: tuple[int, ...], blocks: Any) -> None:
    """Write a `.npy` file of float32 as `numpy.save` does, a block at a time."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32))}
    with whole_file(path) as file:
        np.lib.format.write_array_header_1_0(file, {**header, "fortran_order": False, "shape": shape})
        for block in blocks:
            file.write(np.ascontiguousarray(block, np.float32).data)
