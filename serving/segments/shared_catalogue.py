"""A catalogue in files that all workers map into memory, so that no worker has to build its own.

    ready.json     version of the bundle and of the format; sha256 and size of the others; written last
    items.bin      each item's part of an answer, one after the other (`packed_items.py`)
    ends.npy       where each part ends, int64 (N + 1,), with a 0 before them
    codes.npy      CRC-32 of each id and its row, 32 bits each, ascending, uint64 (N,)
    ranking.npy    rows, the most popular first, int32 (N,)
    shares.npy     popularity by row, float32 (N,)

Parsing a large items.json and packing its items blocks a worker's other threads, and fragments its memory.
The validation of a bundle (`rollout/bundle_validation.py`) does both anyway, and writes these files. For
65,441 items, parsing takes 270 ms, 30 of them without a pause; mapping these files takes 7 ms, 1 without a
pause. The files hold nothing that items.json does not, so if they are missing, outdated or damaged, a worker
reads items.json.
"""

import hashlib
import json
import logging
import mmap
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.files import atomic_directory
from twinspire.protos.files.draft_file import sync
from twinspire.protos.files.npy_file import map_array
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.segments.packed_items import PackedItems, score_parts

log = logging.getLogger(__name__)

ROW = 2**32 - 1  # the bits of a code that are the row
FORMAT = 2
MAX_CACHED = 65_536  # rows that a worker keeps by id, about 120 bytes each; beyond it, the cache is emptied
WIRE = hashlib.sha256(wire.DESCRIPTOR.serialized_pb).hexdigest()  # schema of the messages in items.bin
CONTENTS, ITEMS, ENDS, CODES, RANKING, SHARES = (
    "ready.json",
    "items.bin",
    "ends.npy",
    "codes.npy",
    "ranking.npy",
    "shares.npy",
)


class MappedCatalogue(Catalogue):
    """A `Catalogue` over mapped files: processes share its memory, and it makes no object per item.

    Args:
        packed: the N items.
        names: of the display fields, in their order.
        codes: CRC-32 and row of each id, ascending (N,).
        ranking: rows (N,), the most popular first.
        shares: popularity (N,) by row.
    """

    def __init__(
        self,
        packed: PackedItems,
        names: Sequence[str],
        codes: Sequence[int],
        ranking: Sequence[int],
        shares: Sequence[float],
    ) -> None:
        self.packed = packed
        self.ranking, self.shares = ranking, shares
        self._codes, self._names = codes, names
        self._cached: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.packed)

    def item_id(self, row: int) -> str:
        """The id of the item in a row."""
        return str(self.packed.hit(row).id)

    def find(self, item_id: str) -> int | None:
        """As `Catalogue.find`; up to `MAX_CACHED` ids that were found are kept in a dictionary."""
        row = self._cached.get(item_id)
        if row is None:
            row = self._find(item_id)
            if row is not None:
                if len(self._cached) >= MAX_CACHED:
                    self._cached.clear()
                self._cached[item_id] = row
        return row

    def _find(self, item_id: str) -> int | None:
        codes, code = self._codes, _code(item_id)
        place = bisect_left(codes, code << 32)
        while place < len(codes) and codes[place] >> 32 == code:
            row = codes[place] & ROW
            if self.item_id(row) == item_id:
                return row
            place += 1
        return None

    def fields(self, row: int) -> dict[str, str]:
        """The display fields of an item; one that it lacks is left out."""
        fields = self.packed.hit(row).fields
        return {name: fields[name] for name in self._names if name in fields}


def codes_of(ids: Iterable[str]) -> npt.NDArray[np.uint64]:
    """CRC-32 and row of N distinct ids, ascending, uint64 (N,)."""
    return np.sort(np.array([_code(item_id) << 32 | row for row, item_id in enumerate(ids)], np.uint64))


def _code(item_id: str) -> int:
    """The CRC-32 of an id."""
    return zlib.crc32(item_id.encode("utf-8", "surrogatepass"))  # an id in a query may hold a lone surrogate


def _contents(place: Path, manifest: Manifest) -> dict[str, Any]:
    """What ready.json says of the files in a folder if they are those of a bundle."""
    files = {name: asdict(bundle.record(place / name)) for name in (ITEMS, ENDS, CODES, RANKING, SHARES)}
    return {"format": FORMAT, "wire": WIRE, "bundle_version": manifest.bundle_version, "files": files}


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
        np.save(folder / CODES, codes_of(map(catalogue.item_id, range(manifest.count))))
        np.save(folder / RANKING, np.array(catalogue.ranking, np.int32))
        np.save(folder / SHARES, np.array(catalogue.shares, np.float32))
        for path in folder.iterdir():
            sync(path)
        content = json.dumps(_contents(folder, manifest), indent=2)
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
    path, count = place / CONTENTS, manifest.count
    if parse_json(path.read_bytes()) != _contents(place, manifest):
        raise BundleDamaged(f"{path}: of another bundle or version, or the files have changed")
    shapes: Mapping[str, tuple[Any, int]] = {
        ENDS: (np.int64, count + 1),
        CODES: (np.uint64, count),
        RANKING: (np.int32, count),
        SHARES: (np.float32, count),
    }
    arrays = {name: map_array(place / name, dtype, (length,)) for name, (dtype, length) in shapes.items()}
    with (place / ITEMS).open("rb") as file:
        items = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(items) != arrays[ENDS][-1]:
        raise BundleDamaged(f"{place / ITEMS}: {len(items)} bytes, expected {arrays[ENDS][-1]}")
    views = {name: array.data for name, array in arrays.items()}
    packed = PackedItems.of(items, views[ENDS], score_parts(manifest))
    return MappedCatalogue(packed, manifest.display_fields, views[CODES], views[RANKING], views[SHARES])
