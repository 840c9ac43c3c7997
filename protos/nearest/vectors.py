"""Item vectors on disk in float32, float16 or int8.

    vectors.npy           (N, D): float32, float16 or int8
    vector_scales.npy     float32 (N,), with int8 only: the factor of each row

Vectors are always read as float32. `rounded_vectors` returns, bit for bit, what will be read back, so that
the graph is built over the same vectors that the service uses. Each value that is read back is one float32
product, which all processors round alike. The padding coordinate is computed from a sum, and is equal only
on processors of the same kind.

A row of int8 keeps the length of the original row: its scale is the quotient of the two lengths, so scores
stay cosines. float16 changes a length by less than 0.0005, which is not corrected.

`has_padding_dim` says that the last coordinate only pads a row to unit length, as for scores that are not
cosines. It is often by far the largest coordinate, so int8 rounds only the others and recomputes it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import SCALES, VECTORS, Manifest, Precision, whole_file
from twinspire.protos.files.npy_file import map_array

Vectors = npt.NDArray[np.float32]
Int8Rows = npt.NDArray[np.int8]
Rows = npt.NDArray[np.int64]

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
HIGHEST = 127  # of int8; -128 is not used, so that rounding is symmetric
BLOCK = 8192  # rows converted at a time
LENGTH_TOLERANCE = 0.01  # float16 changes a length by less than 0.0005, int8 by less than 0.004
_TYPES: dict[Precision, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "int8": np.dtype(np.int8),
}


def int8_rows(rows: Vectors) -> tuple[Int8Rows, Vectors]:
    """Quantise rows (N, D) to -127..127, with a scale (N,) that restores each row.

    The largest coordinate of a row becomes 127. A row of zeros stays zero and has the scale 0.
    """
    scales = np.abs(rows).max(axis=1, initial=0) / np.float32(HIGHEST)
    divisors = np.where(scales > 0, scales, np.float32(np.inf))
    quantised = np.rint(rows / divisors[:, None])
    # The scale of a row of tiny numbers is coarse, so a quotient may exceed 127.
    return np.clip(quantised, -HIGHEST, HIGHEST).astype(np.int8), scales


def rounded_vectors(vectors: Vectors, precision: Precision, has_padding_dim: bool = False) -> Vectors:
    """What `read_vectors` returns for vectors (N, D) that `write_vectors` has written: float32 (N, D)."""
    if precision == "fp32":
        return vectors
    found = np.empty(vectors.shape, np.float32)
    for rows in _blocks(len(vectors)):
        if precision == "fp16":
            found[rows] = vectors[rows].astype(np.float16)
        else:
            _restore(*_int8(vectors[rows], has_padding_dim), has_padding_dim, found[rows])
    return found


def write_vectors(
    folder: Path, vectors: Vectors, precision: Precision, has_padding_dim: bool = False
) -> None:
    """Write vectors (N, D) into a bundle's folder, a block at a time and each file atomically."""
    if precision == "int8":
        scales = [_int8(vectors[rows], has_padding_dim)[1] for rows in _blocks(len(vectors))]
        _write(folder / SCALES, np.dtype(np.float32), (len(vectors),), scales)
        blocks: Any = (_int8(vectors[rows], has_padding_dim)[0] for rows in _blocks(len(vectors)))
    else:
        blocks = (vectors[rows].astype(_TYPES[precision]) for rows in _blocks(len(vectors)))
    _write(folder / VECTORS, _TYPES[precision], vectors.shape, blocks)


def write_merged(
    folder: Path,
    source: Path,
    origin: Rows,
    fresh: Vectors,
    precision: Precision,
    count: int,
    has_padding_dim: bool = False,
) -> None:
    """Write the vectors of a bundle of which some are those of another bundle, byte for byte.

    Args:
        source: folder of the other bundle, of the same precision.
        origin: int64 (N,): row of the other bundle, or -1 for the next fresh vector.
        fresh: float32 (n, D), one for each -1, in their order.
        count: of the other bundle's vectors.

    Raises:
        BundleDamaged: the other bundle does not hold `count` vectors of this dimension and precision.
    """
    stored = map_array(source / VECTORS, _TYPES[precision], (count, fresh.shape[1]))
    scales = map_array(source / SCALES, _TYPES["fp32"], (count,)) if precision == "int8" else None
    before = np.concatenate([[0], np.cumsum(origin < 0)])  # fresh vectors before each row

    def merged(rows: slice) -> tuple[Any, Any]:
        of = origin[rows]
        old, new = np.flatnonzero(of >= 0), np.flatnonzero(of < 0)
        some = fresh[before[rows.start] : before[rows.start] + len(new)]
        block = np.empty((len(of), fresh.shape[1]), _TYPES[precision])
        factors = np.empty(len(of), np.float32)
        block[old] = stored[of[old]]
        if scales is None:
            block[new] = some.astype(_TYPES[precision])
        else:
            block[new], factors[new] = _int8(some, has_padding_dim)
            factors[old] = scales[of[old]]
        return block, factors

    blocks = [*_blocks(len(origin))]
    if scales is not None:
        factors = (merged(rows)[1] for rows in blocks)
        _write(folder / SCALES, np.dtype(np.float32), (len(origin),), factors)
    shape = (len(origin), fresh.shape[1])
    _write(folder / VECTORS, _TYPES[precision], shape, (merged(rows)[0] for rows in blocks))


def read_vectors(
    folder: Path, precision: Precision, count: int, dimension: int, has_padding_dim: bool = False
) -> Vectors:
    """Read the vectors (N, D) of a bundle as float32.

    float32 files are memory-mapped, so processes share the memory. Other precisions are converted a block at
    a time into memory of this process.

    Args:
        count: N.
        dimension: D.

    Raises:
        BundleDamaged: a file is missing, or does not hold N vectors of dimension D in this precision.
    """
    stored = map_array(folder / VECTORS, _TYPES[precision], (count, dimension))
    if precision == "fp32":
        mapped: Vectors = stored
        return mapped
    scales = map_array(folder / SCALES, _TYPES["fp32"], (count,)) if precision == "int8" else None
    found = np.empty((count, dimension), np.float32)
    for rows in _blocks(count):
        if scales is None:
            found[rows] = stored[rows]
        else:
            _restore(stored[rows], scales[rows], has_padding_dim, found[rows])
    return found


def vectors_of(folder: Path, manifest: Manifest) -> Vectors:
    """The vectors (N, D) of a verified bundle as float32; errors as of `read_vectors`."""
    stored = manifest.precision.vectors, manifest.count, manifest.dimension
    return read_vectors(folder, *stored, manifest.score.has_padding_dim)


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


def _int8(vectors: Vectors, has_padding_dim: bool) -> tuple[Int8Rows, Vectors]:
    """int8 rows (n, D) and scales (n,) that keep the length; with `has_padding_dim` the last column is 0."""
    rows, end = np.zeros(vectors.shape, np.int8), -1 if has_padding_dim else None
    rows[:, :end], scales = int8_rows(vectors[:, :end])
    if has_padding_dim:  # padding restores the length
        return rows, scales
    length, rounded = (np.linalg.norm(each.astype(np.float32), axis=1) for each in (vectors, rows))
    return rows, np.divide(length, rounded, out=np.zeros_like(scales), where=rounded > 0)


def _restore(rows: Int8Rows, scales: Vectors, has_padding_dim: bool, found: Vectors) -> None:
    """Write float32 rows (n, D) into `found`."""
    np.multiply(rows, scales[:, None], out=found)
    if has_padding_dim:
        found[:, -1] = np.sqrt(np.maximum(0, 1 - np.square(found[:, :-1]).sum(axis=1)))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(at, at + BLOCK) for at in range(0, count, BLOCK))


def _write(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Any) -> None:
    """Write a `.npy` file as `numpy.save` does, a block at a time."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with whole_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
