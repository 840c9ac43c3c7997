"""Reads an HNSW graph from its file, and checks every number in it but the vectors' before hnswlib gets it.

hnswlib's own `load_index` does not check the file, so a damaged file can crash the process. It also holds
Python's global lock all the time, so the threads that answer requests stop. Here numpy checks the file on a
memory map, in short steps, and hnswlib then takes the checked state. 65,441 items of D = 128 take 44 ms on
two shared cores, and other threads stop for 27 ms of them (median), while hnswlib copies the elements; with
`load_index` both take 77 ms.

The file, little-endian, as `save_index` of hnswlib 0.8 writes it for N items:

    header        96 bytes, the fields of `FIELDS`
    elements      N times: number of links and a mark (uint32), space for 2 M links (uint32), vector
                  (float32, D), label (uint64)
    upper links   N times: length in bytes (uint32), and for each level above the lowest that the element is
                  on: number of links (uint32), space for M links (uint32)

A link is the place of an element in the file. A label is the row of the item in the bundle.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import MAX_LINKS
from twinspire.protos.errors import BundleDamaged

State = dict[str, Any]  # with the names of `hnswlib.Index.__getstate__`
Levels = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint32]  # each row: number of links, and the links

HEADER = struct.Struct("<6QiI3QdQ")
FIELDS = (
    "offset_level0",
    "max_elements",
    "cur_element_count",
    "size_data_per_element",
    "label_offset",
    "offset_data",
    "max_level",
    "enterpoint_node",
    "max_M",
    "max_M0",
    "M",
    "mult",
    "ef_construction",
)
FIXED = (  # fields that follow from space, dimension, M and ef_construction
    "offset_level0",
    "size_data_per_element",
    "label_offset",
    "offset_data",
    "max_M",
    "max_M0",
    "ef_construction",
)
DELETED = np.uint32(1 << 16)  # bit beside the number of links: the element is marked as deleted
STEP = 4096  # elements checked in one step, because numpy holds Python's global lock


def read_graph(path: Path, space: str, dimension: int) -> hnswlib.Index:
    """The graph that `hnswlib.Index.save_index` has written, as `load_index` would load it.

    All numbers that direct a search are checked: each link leads to an element of the link's level, and the
    labels are the rows 0 to N - 1. The vectors are not checked.

    Args:
        path: the file; it must not change while it is read.
        space: hnswlib's name of the metric.
        dimension: D.

    Raises:
        BundleDamaged: the file cannot be read, or is not such a graph; the text says what was found.
    """
    try:
        content = _mapped(path)
        header = _header(content)
        empty = _empty_state(header, space, dimension)
        _check_header(header, empty, len(content))
        labels, has_deletions = _read_lowest_level(content, header)
        levels, rows = _read_upper_levels(content, header, empty["size_links_per_element"])
        _check_upper_links(header, levels, rows)
    except OSError as error:
        raise BundleDamaged(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BundleDamaged(f"{path}: {error}") from None
    size = header["cur_element_count"] * header["size_data_per_element"]
    rest = {
        "mult": empty["mult"],  # computed on this machine; hnswlib accepts no other value
        "ep_added": True,
        "has_deletions": has_deletions,
        "label_lookup_external": labels,
        "label_lookup_internal": np.arange(len(labels), dtype=np.uint32),
        "element_levels": levels,
        "data_level0": np.frombuffer(content, np.int8, size, HEADER.size),
        "link_lists": rows.view(np.int8).ravel(),
    }
    return hnswlib.Index(params={**empty, **header, **rest})


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _header(content: mmap.mmap) -> State:
    if len(content) < HEADER.size:
        raise ValueError(f"{len(content)} bytes, expected a header of {HEADER.size}")
    return dict(zip(FIELDS, HEADER.unpack_from(content), strict=True))


def _empty_state(header: State, space: str, dimension: int) -> State:
    """The state of an empty graph of hnswlib with the same parameters."""
    _expect_within("M", header["M"], 2, MAX_LINKS)
    graph = hnswlib.Index(space=space, dim=dimension)
    graph.init_index(1, M=header["M"], ef_construction=header["ef_construction"])
    state: State = graph.__getstate__()[0]
    return state


def _check_header(header: State, empty: State, length: int) -> None:
    for name in FIXED:
        _expect(name, header[name], empty[name])
    if not math.isclose(header["mult"], empty["mult"]):
        raise ValueError(f"mult is {header['mult']}, expected {empty['mult']}")
    count = header["cur_element_count"]
    each = header["size_data_per_element"] + 4  # with the length field of its upper links
    _expect_within("cur_element_count", count, 1, (length - HEADER.size) // each)
    _expect("max_elements", header["max_elements"], count)
    _expect_within("enterpoint_node", header["enterpoint_node"], 0, count - 1)


def _read_lowest_level(content: mmap.mmap, header: State) -> tuple[npt.NDArray[np.uint64], bool]:
    """Check the lowest level; returns the labels (N,), and whether an element is marked as deleted."""
    count, room, each = header["cur_element_count"], header["max_M0"], header["size_data_per_element"]
    elements = np.frombuffer(content, np.uint8, count * each, HEADER.size).reshape(count, each)
    labels = np.empty(count, np.uint64)
    seen = np.zeros(count, np.bool_)
    has_deletions = False
    for part in _steps(count):
        words = elements[part, : header["offset_data"]].view(np.uint32)  # (STEP, 1 + 2 M)
        numbers = words[:, 0]
        has_deletions |= bool((numbers & DELETED).any())
        _expect_within("number of links", int((numbers & ~DELETED).max()), 0, room)
        # Unused space holds zeros, or links that were removed.
        _expect_within("link", int(words[:, 1:].max()), 0, count - 1)
        labels[part] = elements[part, header["label_offset"] :].view(np.uint64)[:, 0]
        _expect_within("label", int(labels[part].max()), 0, count - 1)
        seen[labels[part]] = True
    if not seen.all():
        raise ValueError(f"no element has the label {seen.argmin()}, so another label comes twice")
    return labels, has_deletions


def _read_upper_levels(content: mmap.mmap, header: State, size: int) -> tuple[Levels, Words]:
    """The level of each element (N,), and a row (1 + M,) for each of its levels above the lowest."""
    count = header["cur_element_count"]
    start = HEADER.size + count * header["size_data_per_element"]
    _expect("length in bytes beyond a multiple of 4", len(content) % 4, 0)
    words = memoryview(content)[start:].cast("I")
    levels, rows, at = np.zeros(count, np.int32), [], 0
    for element in range(count):
        if at >= len(words):
            raise ValueError(f"ends before the upper links of element {element}, expected {count} elements")
        length = words[at]
        at += 1
        if length:
            _expect("length of upper links beyond whole levels", length % size, 0)
            levels[element] = length // size
            rows.append(words[at : at + length // 4])
            at += length // 4
    _expect("length in bytes", len(content), start + 4 * at)
    return levels, np.frombuffer(b"".join(rows), np.uint32).reshape(-1, size // 4)


def _check_upper_links(header: State, levels: Levels, rows: Words) -> None:
    """Check that links above the lowest level lead to elements that are on the same level."""
    top, entry = header["max_level"], header["enterpoint_node"]
    _expect("max_level", top, int(levels.max()))
    _expect("level of the enterpoint_node", int(levels[entry]), top)
    before = np.cumsum(levels) - levels
    own = 1 + np.arange(len(rows)) - np.repeat(before, levels)  # the level that a row is on
    for part in _steps(len(rows)):
        numbers, links = rows[part, :1], rows[part, 1:]
        _expect_within("number of upper links", int(numbers.max()), 0, header["max_M"])
        used = np.arange(header["max_M"]) < numbers
        ends = np.where(used, links, entry)  # the entry point is on every level
        _expect_within("upper link", int(ends.max()), 0, len(levels) - 1)
        if (levels[ends] < own[part, None]).any():
            raise ValueError("an upper link leads to an element that is not on its level")


def _steps(count: int) -> Iterator[slice]:
    for start in range(0, count, STEP):
        yield slice(start, min(start + STEP, count))


def _expect(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{name} is {found}, expected {expected}")


def _expect_within(name: str, found: int, least: int, most: int) -> None:
    if not least <= found <= most:
        raise ValueError(f"{name} is {found}, expected {least} to {most}")
