"""A catalogue made ready once: files that every worker maps into its memory, instead of building its own.

    ready.json     of which bundle and which format; sha256 and size of the others; written last
    items.bin      each item's part of an answer, one behind the other (`packed.py`)
    ends.npy       where they end, int64 (N + 1,), with a 0 before them
    slots.npy      the row of an id, uint64 (`mapped.py`)
    ranking.npy    rows, the most popular first, int32 (N,)
    shares.npy     popularity by row, float32 (N,)

Reading a large items.json and packing what it holds keeps a worker's other threads waiting, and leaves its
memory in pieces each time. The trial of a bundle (`trial.py`) does both anyway, and leaves the result here.
For 65,441 items that takes 270 ms, 30 of them in one piece, and opening these files 7 ms, 1 in one piece.
The files say nothing that items.json does not, so they may be missing, old or damaged: it is read then.
"""

import hashlib
import json
import logging
import mmap
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos import bundle, drafts
from protos import retrieval_pb2 as wire
from protos.bundle import FileRecord, Manifest
from protos.config import parse
from protos.documents import parse_json
from protos.errors import BundleDamaged
from serving.catalogue import Catalogue
from serving.mapped import MappedCatalogue, slot_count, slots_of
from serving.packed import PackedCatalogue

log = logging.getLogger(__name__)

FORMAT = 1
WIRE = hashlib.sha256(wire.DESCRIPTOR.serialized_pb).hexdigest()  # the messages that items.bin is made for
CONTENTS, ITEMS, ENDS, SLOTS, RANKING, SHARES = (
    "ready.json",
    "items.bin",
    "ends.npy",
    "slots.npy",
    "ranking.npy",
    "shares.npy",
)


@dataclass(frozen=True)
class Contents:
    """What the files are, as ready.json has it."""

    bundle_version: str
    files: dict[str, FileRecord]
    format: int = FORMAT
    wire: str = WIRE


def write(place: Path, manifest: Manifest, catalogue: Catalogue, packed: PackedCatalogue) -> None:
    """Make a catalogue ready, whole or not at all; files that are there and whole stay as they are.

    Args:
        place: the folder of the files; its parent is made if missing.
        manifest: of the bundle.
        catalogue: of the bundle.
        packed: the same, packed.

    Raises:
        OSError: they cannot be written.
    """
    if place.exists():
        try:
            _map(place, manifest)
            return
        except Exception:  # whatever is wrong with them, they are made anew
            drafts.remove(place)
    with drafts.draft(place.parent) as draft:
        folder = draft / "ready"
        folder.mkdir()
        (folder / ITEMS).write_bytes(packed.content)
        np.save(folder / ENDS, np.array(packed.ends, np.int64))
        np.save(folder / SLOTS, slots_of(catalogue.ids, manifest.count))
        np.save(folder / RANKING, np.array(catalogue.ranking, np.int32))
        np.save(folder / SHARES, np.array(catalogue.shares, np.float32))
        files = {path.name: bundle.record(path) for path in sorted(folder.iterdir())}
        for name in files:
            bundle.sync(folder / name)
        content = json.dumps(asdict(Contents(manifest.bundle_version, files)), indent=2)
        bundle.write_file(folder / CONTENTS, f"{content}\n".encode())
        try:
            os.rename(folder, place)
        except OSError:
            if not place.exists():  # nobody else has made them meanwhile
                raise
        bundle.sync(place.parent)


def open_catalogue(place: Path, folder: Path, manifest: Manifest) -> Catalogue:
    """The catalogue of a bundle: of its ready files, or of items.json where they cannot be used.

    Args:
        place: the folder of the ready files.
        folder: of the bundle, whose files have been verified.
        manifest: of the bundle.

    Raises:
        BundleDamaged: items.json was needed, and is not the one that the manifest describes.
    """
    try:
        return _map(place, manifest)
    except FileNotFoundError:
        log.info("%s: no catalogue has been made ready, so this process builds its own", folder.name)
    except Exception as error:  # whatever is wrong with them, items.json has it too
        log.warning("%s: this process builds its own catalogue: %s", folder.name, error)
    return Catalogue(folder, manifest)


def _map(place: Path, manifest: Manifest) -> MappedCatalogue:
    """What is in the files, verified."""
    path = place / CONTENTS
    try:
        contents: Contents = parse(parse_json(path.read_bytes()), Contents)
    except ValueError as error:
        raise BundleDamaged(f"{path}: {error}") from None
    expected = {"format": FORMAT, "wire": WIRE, "bundle_version": manifest.bundle_version}
    for name, value in expected.items():
        if getattr(contents, name) != value:
            raise BundleDamaged(f"{path}: {name} is {getattr(contents, name)!r}, expected {value!r}")
    count = manifest.count
    shapes: Mapping[str, tuple[Any, int]] = {
        ENDS: (np.int64, count + 1),
        SLOTS: (np.uint64, slot_count(count)),
        RANKING: (np.int32, count),
        SHARES: (np.float32, count),
    }
    if set(contents.files) != {ITEMS, *shapes}:
        raise BundleDamaged(f"{path}: lists {sorted(contents.files)}, expected {sorted([ITEMS, *shapes])}")
    for name, record in contents.files.items():
        if (found := bundle.record(place / name)) != record:
            raise BundleDamaged(f"{place / name}: {found}, expected {record}")
    arrays = {name: _array(place / name, *shape) for name, shape in shapes.items()}
    with (place / ITEMS).open("rb") as file:
        items = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(items) != arrays[ENDS][-1]:
        raise BundleDamaged(f"{place / ITEMS}: {len(items)} bytes, expected {arrays[ENDS][-1]}")
    views = {name: array.data for name, array in arrays.items()}
    packed = PackedCatalogue.of(items, views[ENDS])
    return MappedCatalogue(packed, manifest.display_fields, views[SLOTS], views[RANKING], views[SHARES])


def _array(path: Path, dtype: Any, length: int) -> npt.NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.shape != (length,):
        raise BundleDamaged(f"{path}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {(length,)}")
    return np.asarray(array)
