"""The file format of derived records: what a record holds, and how it stands in a file.

header    a page: what the file belongs to, with a CRC-32; then six cells of 8 bytes that the writer changes:
`length` (bytes of the file that hold whole records), `sequence`, `version`, which is odd while the writer
changes others together, and the sequence and the mark of a position of the store, which no record is beyond,
with their CRC-32
records   each: length of its body and CRC-32 of its body (uint32 each), and its body
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from protos.bundle import Manifest
from protos.errors import Unavailable
from serving.segments.record import Record, RecordKind, RecordsDamaged

MAGIC = b"TWINLIVE"
FORMAT = 3
PAGE = 4096
# Magic, format, dimension, sequence of the bundle's snapshot, generation, bundle version, store id.
HEADER = struct.Struct("<8sIIQQ64s64s")
CHECK = struct.Struct("<I")
# Cells of the header's page.
LENGTH, SEQUENCE, VERSION, POSITION, MARK, POSITION_CHECK = range(1024 // 8, 1072 // 8)
HEAD = struct.Struct("<II")  # of a record: length and CRC-32 of its body
# Of a body: sequence, kind, and bytes of the id, the packed hit, the values, the vector and the terms, which
# follow.
BODY = struct.Struct("<QBIIIII")
CHUNK = 256 << 10  # bytes that are read at once, if a record is not larger
SUFFIX, LOCK_SUFFIX, DAMAGED_SUFFIX, GRAPH_SUFFIX = ".records", ".lock", ".damaged", ".graph"


class RecordsInUse(Unavailable):
    """Another process, or another thread, writes the records."""


@dataclass(frozen=True)
class RecordOrigin:
    """What records were derived from.

    Args:
        bundle_version: whose item tower has encoded the items.
        store_id: of the store.
        dimension: of the vectors.
        start: sequence of the snapshot that the bundle was built from.
    """

    bundle_version: str
    store_id: str
    dimension: int
    start: int = 0


def origin_of(manifest: Manifest, store_id: str) -> RecordOrigin:
    """The origin of the records of a bundle for a store."""
    known = manifest.catalogue
    start = known.sequence if known is not None and known.store == store_id else 0
    return RecordOrigin(manifest.bundle_version, store_id, manifest.dimension, start)


def records_path(folder: Path, origin: RecordOrigin) -> Path:
    """Where the records of a bundle are, below the folder of all live items."""
    return folder / origin.store_id / f"{origin.bundle_version}{SUFFIX}"


def graph_path(records: Path, generation: int) -> Path:
    """Where the graph of a generation of records is."""
    return records.with_name(f"{records.stem}.{generation:016x}{GRAPH_SUFFIX}")


def packed(record: Record) -> bytes:
    """A record as it stands in the file."""
    name = record.item_id.encode()
    lengths = len(name), len(record.hit), len(record.values), len(record.vector), len(record.terms)
    body = b"".join(
        (
            BODY.pack(record.sequence, record.kind, *lengths),
            name,
            record.hit,
            record.values,
            record.vector,
            record.terms,
        )
    )
    return HEAD.pack(len(body), zlib.crc32(body)) + body


def read_chunk(descriptor: int, offset: int, end: int) -> bytes:
    """Some whole, undamaged records from `offset` on; none if the first is damaged or ends after `end`."""
    chunk = os.pread(descriptor, min(end - offset, CHUNK), offset)
    if len(chunk) >= HEAD.size and (size := HEAD.size + HEAD.unpack_from(chunk)[0]) > len(chunk):
        chunk = os.pread(descriptor, size, offset) if size <= end - offset else b""
    taken = 0
    while taken + HEAD.size <= len(chunk):
        length, check = HEAD.unpack_from(chunk, taken)
        begin, stop = taken + HEAD.size, taken + HEAD.size + length
        if length < BODY.size or stop > len(chunk) or zlib.crc32(memoryview(chunk)[begin:stop]) != check:
            break
        taken = stop
    return chunk[:taken]


def bodies(chunk: bytes) -> Iterator[tuple[memoryview, int]]:
    """The bodies of the records of a chunk, and where each record begins."""
    view, offset = memoryview(chunk), 0
    while offset < len(chunk):
        end = offset + HEAD.size + HEAD.unpack_from(chunk, offset)[0]
        yield view[offset + HEAD.size : end], offset
        offset = end


def unpacked(body: memoryview) -> Record:
    """The record of a body."""
    sequence, kind, *lengths = BODY.unpack_from(body)
    parts, at = [], BODY.size
    for length in lengths:
        parts.append(bytes(body[at : at + length]))
        at += length
    name, *others = parts
    return Record(sequence, name.decode(), RecordKind(kind), *others)


def header(origin: RecordOrigin, generation: int) -> bytes:
    """The header of a file, without its cells."""
    names = origin.bundle_version.encode(), origin.store_id.encode()
    if max(map(len, names)) > 64:
        raise ValueError(f"store_id, bundle_version: expected at most 64 bytes, got {names}")
    content = HEADER.pack(MAGIC, FORMAT, origin.dimension, origin.start, generation, *names)
    return content + CHECK.pack(zlib.crc32(content))


def is_header(page: bytes) -> bool:
    """Whether a file that begins with this page has records in the format of this module."""
    return len(page) == PAGE and HEADER.unpack_from(page)[:2] == (MAGIC, FORMAT)


def check_header(descriptor: int, path: Path, origin: RecordOrigin) -> int:
    """The generation of a file.

    Raises:
        RecordsDamaged: it is not of this origin.
    """
    page = os.pread(descriptor, PAGE, 0)
    if len(page) < PAGE:
        raise RecordsDamaged(f"{path}: {len(page)} bytes, expected a header of {PAGE}")
    if not is_header(page):
        raise RecordsDamaged(f"{path}: expected records of live items in format {FORMAT}")
    generation = HEADER.unpack_from(page)[4]
    if page[: HEADER.size + CHECK.size] != header(origin, generation):
        raise RecordsDamaged(f"{path}: belongs to another bundle or store, or its header is damaged")
    return int(generation)
