"""Maps arrays from `.npy` files whose header is checked first.

NumPy's own reader computes with whatever a header says. A negative length raises errors of several kinds. If
the type has no bytes, too, mapping the file ends the process by SIGFPE (NumPy 2.4).
"""

import io
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from twinspire.protos.errors import BundleDamaged

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def map_array(
    path: Path, dtype: npt.DTypeLike, shape: Sequence[int | None], file: BinaryIO | None = None
) -> npt.NDArray[Any]:
    """Map an array in C order, read only.

    Args:
        dtype: that the array must have.
        shape: that the array must have; None for a length that is not known.
        file: the file, if it has been opened; it may be closed afterwards.

    Raises:
        BundleDamaged: the file is missing, or does not hold such an array.
    """
    try:
        if file is None:
            with path.open("rb") as opened:
                return _mapped(opened, np.dtype(dtype), shape)
        return _mapped(file, np.dtype(dtype), shape)
    except FileNotFoundError:
        raise BundleDamaged(f"{path}: missing") from None
    except Exception as error:  # NumPy's parser of headers raises errors that share no other base
        raise BundleDamaged(f"{path}: not an array: {error}") from None


def stored_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a `.npz` file; compressed ones are refused, because they may be of any size.

    Raises:
        OSError, ValueError, EOFError, BadZipFile: it does not hold such arrays.
    """
    with zipfile.ZipFile(path) as archive:
        if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
            raise ValueError("holds a compressed array")
        return {
            name.removesuffix(".npy"): npy.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
            for name in archive.namelist()
        }


def _mapped(file: BinaryIO, dtype: np.dtype[Any], shape: Sequence[int | None]) -> npt.NDArray[Any]:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of the format, expected one of {sorted(_HEADERS)}")
    lengths, is_fortran, found = _HEADERS[version](file)
    as_expected = [
        type(length) is int and length >= 0 and expected in (None, length)
        for length, expected in zip(lengths, shape, strict=False)
    ]
    if found != dtype or len(lengths) != len(shape) or not all(as_expected):
        wanted = tuple("N" if each is None else each for each in shape)
        raise ValueError(f"{found} {lengths}, expected {dtype} {wanted}")
    if is_fortran and len(shape) > 1:
        raise ValueError("in Fortran order, expected C order")
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    needed = start + math.prod(lengths) * dtype.itemsize
    if size < needed:
        raise ValueError(f"{size} bytes, expected {needed}")
    if 0 in lengths:  # an empty part of a file cannot be mapped
        return np.empty(lengths, dtype)
    return np.asarray(np.memmap(file, dtype, "r", start, lengths))
