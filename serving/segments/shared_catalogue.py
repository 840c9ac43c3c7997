"""A catalogue in files that all workers map into memory, so that no worker has to build its own.

    ready.json     version of the bundle and of the format; sha256 and size of the others; written last
    items.bin      each item's part of an answer, one after the other (`packed_items.py`)
    ends.npy       where each part ends, int64 (N + 1,), with a 0 before them
    slots.npy      hash table from id to row, uint64 (below)
    ranking.npy    rows, the most popular first, int32 (N,)
    shares.npy     popularity by row, float32 (N,)

Parsing a large items.json and packing its items blocks a worker's other threads, and fragments its memory.
The validation of a bundle (`rollout/bundle_validation.py`) does both anyway, and writes these files. For
65,441 items, parsing takes 270 ms, 30 of them without a pause; mapping these files takes 7 ms, 1 without a
pause. The files hold nothing that items.json does not, so if they are missing, outdated or damaged, a worker
reads items.json.

The hash table uses open addressing with linear probing: an id's first slot follows from its CRC-32; if
another id holds that slot, the id takes the next free one. A slot holds the CRC-32 and the row, so an id that
the catalogue lacks is almost never compared with an id that it has.
"""

import hashlib
import json
import logging
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import FileRecord, Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.files import atomic_directory
from twinspire.protos.files.draft_file import sync
from twinspire.protos.files.npy_file import map_array
from twinspire.protos.toml_config import parse
from twinspire.serving.segments.catalogue import Catalogue, IdsByRow
from twinspire.serving.segments.packed_items import PackedItems, score_parts

log = logging.getLogger(__name__)

FREE = 2**64 - 1  # an empty slot; no row is that high
ROW = 2**32 - 1  # the bits of a slot that are the row
FORMAT = 1
MAX_CACHED = 65_536  # rows that a worker keeps by id, about 120 bytes each; beyond it, the cache is emptied
WIRE = hashlib.sha256(wire.DESCRIPTOR.serialized_pb).hexdigest()  # schema of the messages in items.bin
CONTENTS, ITEMS, ENDS, SLOTS, RANKING, SHARES = (
    "ready.json",
    "items.bin",
    "ends.npy",
    "slots.npy",
    "ranking.npy",
    "shares.npy",
)


class MappedCatalogue(Catalogue):
    """A `Catalogue` over mapped files: processes share its memory, and it makes no object per item.

    Args:
        packed: the N items.
        names: of the display fields, in their order.
        slots: the hash table of the ids, as `slots_of` makes it.
        ranking: rows (N,), the most popular first.
        shares: popularity (N,) by row.
    """

    def __init__(
        self,
        packed: PackedItems,
        names: Sequence[str],
        slots: Sequence[int],
        ranking: Sequence[int],
        shares: Sequence[float],
    ) -> None:
        self.packed = packed
        self.ids = _Ids(packed)
        self.ranking, self.shares = ranking, shares
        self._rows = _Rows(self.ids, slots)
        self._names = names

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""
        fields = self.packed.hit(row).fields
        return {name: fields[name] for name in self._names if name in fields}


def slot_count(count: int) -> int:
    """Slots for `count` ids: a power of two, at most half of them in use."""
    return 1 << (2 * count - 1).bit_length()


def slots_of(ids: Iterable[str], count: int) -> npt.NDArray[np.uint64]:
    """The hash table of `count` distinct ids, uint64 (`slot_count(count)`,)."""
    slots = np.full(slot_count(count), FREE, np.uint64)
    view, mask = slots.data, len(slots) - 1
    for row, item_id in enumerate(ids):
        code = _code(item_id)
        place = code & mask
        while view[place] != FREE:
            place = place + 1 & mask
        view[place] = code << 32 | row
    return slots


class _Ids(IdsByRow):
    """Ids by row, parsed from the packed items on access."""

    def __init__(self, packed: PackedItems) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def _id(self, row: int) -> str:
        return str(self._packed.hit(row).id)


class _Rows:
    """Rows by id; up to `MAX_CACHED` ids that were found are kept in a dictionary."""

    def __init__(self, ids: Sequence[str], slots: Sequence[int]) -> None:
        self._ids, self._slots = ids, slots
        self._mask = len(slots) - 1
        self._cached: dict[str, int] = {}

    def get(self, item_id: str, /) -> int | None:
        row = self._cached.get(item_id)
        if row is None:
            row = self._find(item_id)
            if row is not None:
                if len(self._cached) >= MAX_CACHED:
                    self._cached.clear()
                self._cached[item_id] = row
        return row

    def _find(self, item_id: str) -> int | None:
        code, slots = _code(item_id), self._slots
        place = code & self._mask
        while (slot := slots[place]) != FREE:
            if slot >> 32 == code and self._ids[slot & ROW] == item_id:
                return slot & ROW
            place = place + 1 & self._mask
        return None


def _code(item_id: str) -> int:
    """The CRC-32 of an id."""
    return zlib.crc32(item_id.encode("utf-8", "surrogatepass"))  # an id in a query may hold a lone surrogate


@dataclass(frozen=True)
class Contents:
    """The content of ready.json."""

    bundle_version: str
    files: dict[str, FileRecord]
    format: int = FORMAT
    wire: str = WIRE


def write(place: Path, manifest: Manifest, catalogue: Catalogue, packed: PackedItems) -> None:
    """Write the files of a catalogue atomically; valid files that exist are kept.

    Args:
        place: the folder of the files; its parent is created if missing.
        packed: the same catalogue, packed.

    Raises:
        OSError: the files cannot be written.
    """
    if place.exists():
        try:
            _map(place, manifest)
            return
        except Exception:  # whatever is wrong with the files, they are written again
            atomic_directory.remove(place)
    with atomic_directory.draft(place.parent) as draft:
        folder = draft / "ready"
        folder.mkdir()
        (folder / ITEMS).write_bytes(packed.content)
        np.save(folder / ENDS, np.array(packed.ends, np.int64))
        np.save(folder / SLOTS, slots_of(catalogue.ids, manifest.count))
        np.save(folder / RANKING, np.array(catalogue.ranking, np.int32))
        np.save(folder / SHARES, np.array(catalogue.shares, np.float32))
        files = {path.name: bundle.record(path) for path in sorted(folder.iterdir())}
        for name in files:
            sync(folder / name)
        content = json.dumps(asdict(Contents(manifest.bundle_version, files)), indent=2)
        bundle.write_file(folder / CONTENTS, f"{content}\n".encode())
        try:
            os.rename(folder, place)
        except OSError:
            if not place.exists():  # unless another process has written them meanwhile
                raise
        sync(place.parent)


def open_catalogue(place: Path, folder: Path, manifest: Manifest) -> Catalogue:
    """The catalogue of a bundle: from its shared files, or from items.json if they cannot be used.

    Args:
        place: the folder of the shared files.
        folder: of the bundle, whose files have been verified.

    Raises:
        BundleDamaged: items.json was needed, and is not the one that the manifest describes.
    """
    try:
        return _map(place, manifest)
    except FileNotFoundError:
        log.info("%s: no catalogue has been made ready, so this process builds its own", folder.name)
    except Exception as error:  # whatever is wrong with the files, items.json holds the same
        log.warning("%s: this process builds its own catalogue: %s", folder.name, error)
    return Catalogue(folder, manifest)


def _map(place: Path, manifest: Manifest) -> MappedCatalogue:
    """Verify the files, and map them."""
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
    arrays = {name: map_array(place / name, dtype, (length,)) for name, (dtype, length) in shapes.items()}
    with (place / ITEMS).open("rb") as file:
        items = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(items) != arrays[ENDS][-1]:
        raise BundleDamaged(f"{place / ITEMS}: {len(items)} bytes, expected {arrays[ENDS][-1]}")
    views = {name: array.data for name, array in arrays.items()}
    packed = PackedItems.of(items, views[ENDS], score_parts(manifest))
    return MappedCatalogue(packed, manifest.display_fields, views[SLOTS], views[RANKING], views[SHARES])
