"""Hashes of what the item tower reads of each item, by which a refresh finds the items that have changed.

Two items with one digest have the same input arrays, so one tower gives them the same vector. A change of a
display field, or of white space that the normalisation removes, changes no digest. BM25 reads texts without
normalisation and without a cut, so the digest of an item of a hybrid bundle covers its whole texts, too.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos import bundle
from twinspire.protos.features import TextFeature, TowerInputs
from twinspire.protos.files.npy_file import map_array

SIZE = 16  # bytes

Digests = npt.NDArray[np.uint8]


def digest(inputs: TowerInputs, item: Mapping[str, Any], is_hybrid: bool = False) -> bytes:
    """The digest of one item: feature name -> raw value.

    Args:
        inputs: of the item tower.
        item: raw values.
        is_hybrid: whether the bundle has a lexical index.

    Raises:
        InvalidInput: a value does not fit its feature.
    """
    arrays = inputs.to_arrays({name: [item.get(name)] for name in inputs.features})
    found = hashlib.blake2b(digest_size=SIZE)
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    if is_hybrid:
        for name, spec in sorted(inputs.features.items()):
            if isinstance(spec, TextFeature):
                found.update(f"{name} {item.get(name)!r}".encode(errors="surrogatepass"))
    return found.digest()


def item_digests(
    inputs: TowerInputs, values: Mapping[str, Sequence[Any]], is_hybrid: bool = False
) -> Digests:
    """The digests of N items, uint8 (N, 16), from feature name -> raw values; arguments as of `digest`.

    Raises:
        InvalidInput: a value does not fit its feature.
    """
    rows = (dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True))
    content = b"".join(digest(inputs, row, is_hybrid) for row in rows)
    return np.frombuffer(content, np.uint8).reshape(-1, SIZE)


def read_digests(folder: Path, manifest: bundle.Manifest) -> Digests | None:
    """The digests of a bundle; None if it was made by a program that wrote none.

    Raises:
        BundleDamaged: the file does not hold one digest for each item.
    """
    if bundle.DIGESTS not in manifest.files:
        return None
    path = folder / bundle.DIGESTS
    with bundle.open_file(folder, bundle.DIGESTS) as file:
        return map_array(path, np.uint8, (manifest.count, SIZE), file)
