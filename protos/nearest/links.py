"""The links of a graph over N items: whom a search visits next from each item.

    links.npy   uint32 (N, W): rows of the items that each item leads to; `NO_LINK` fills what is not used

A graph is that of the lowest level of HNSW (Malkov and Yashunin 2018). The levels above it only shorten the
way to where a search begins; comparing the query with sqrt(N) items does so as well (`kernel.c`).
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twinspire.protos.errors import BundleDamaged
from twinspire.protos.files.npy_file import map_array

Links = npt.NDArray[np.uint32]

NO_LINK = np.iinfo(np.uint32).max
MAX_WIDTH = 20_000  # links of an item, twice the largest M of hnswlib
STEP = 4096  # items read in one step, because numpy holds Python's global lock
# Of hnswlib's file: offset of the elements, places, elements, bytes of an element, offsets of label and
# vector, highest level, entry point, links above the lowest level and on it, M, a factor, ef_construction.
HEADER = struct.Struct("<6QiI3QdQ")
COUNT, SIZE, ROOM = 2, 3, 9  # places in the header
NUMBER = np.uint32(0xFFFF)  # bits of the number of links; another one marks an element as deleted


def read_links(path: Path, count: int) -> Links:
    """Map the links of `count` items, (N, W).

    Raises:
        BundleDamaged: the file is missing, or a link leads to no item.
    """
    links: Links = map_array(path, np.uint32, (count, None))
    for part in _steps(count):
        wrong = links[part][(links[part] >= count) & (links[part] != NO_LINK)]
        if len(wrong):
            raise BundleDamaged(f"{path}: a link to item {wrong[0]}, expected 0 to {count - 1}")
    return links


def read_hnswlib(path: Path, dimension: int) -> Links:
    """The links of the lowest level, (N, 2 M), of a graph that hnswlib 0.8 has saved; labels are rows.

    Each element of the file has the number of its links (uint32), space for 2 M of them (uint32), its vector
    (float32, D) and its label (uint64). A link is the place of an element in the file.

    Args:
        dimension: D.

    Raises:
        BundleDamaged: the file cannot be read, or is not such a graph; the text says what was found.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise ValueError(f"{len(header)} bytes, expected a header of {HEADER.size}")
        fields = HEADER.unpack(header)
        _expect_within("max_M0", fields[ROOM], 1, MAX_WIDTH)
        element = np.dtype(
            [
                ("number", "<u4"),
                ("links", "<u4", fields[ROOM]),
                ("vector", "<f4", dimension),
                ("label", "<u8"),
            ]
        )
        _expect_within("size_data_per_element", fields[SIZE], element.itemsize, element.itemsize)
        room = (path.stat().st_size - HEADER.size) // element.itemsize
        _expect_within("cur_element_count", fields[COUNT], 1, room)
        return _links_by_label(np.memmap(path, element, "r", HEADER.size, (fields[COUNT],)))
    except OSError as error:
        raise BundleDamaged(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BundleDamaged(f"{path}: {error}") from None


def _links_by_label(elements: npt.NDArray[np.void]) -> Links:
    count, width = elements["links"].shape
    labels = np.array(elements["label"])
    _expect_within("label", int(labels.max()), 0, count - 1)
    seen = np.bincount(labels.astype(np.int64), minlength=count)
    if not seen.all():
        raise ValueError(f"no element has the label {seen.argmin()}, so another label comes twice")
    found = np.empty((count, width), np.uint32)
    for part in _steps(count):
        numbers, links = elements["number"][part] & NUMBER, elements["links"][part]
        _expect_within("number of links", int(numbers.max()), 0, width)
        used = np.arange(width) < numbers[:, None]
        _expect_within("link", int(links.max(where=used, initial=0)), 0, count - 1)
        found[labels[part]] = np.where(used, labels[np.where(used, links, 0)], NO_LINK)
    return open_dead_ends(found)


def open_dead_ends(links: Links) -> Links:
    """Give a link back to each item that leads only to items without links, if it has room, in place.

    Copies of a vector are such items (`export/ann/duplicates.py`): a search could not go on from them.
    """
    if not (links[:, 0] == NO_LINK).any():
        return links
    is_dead = np.zeros(len(links) + 1, np.bool_)
    is_dead[-1] = True  # stands for unused links
    places = np.minimum(links, len(links))
    while (found := is_dead[places].all(axis=1) & ~is_dead[:-1]).any():
        is_dead[:-1] |= found
    leading, column = np.nonzero(is_dead[places] & (links != NO_LINK))
    target = links[leading, column]
    free = (links[target] != NO_LINK).sum(axis=1)
    has_room = free < links.shape[1]
    links[target[has_room], free[has_room]] = leading[has_room]
    return links


def _steps(count: int) -> Iterator[slice]:
    for start in range(0, count, STEP):
        yield slice(start, min(start + STEP, count))


def _expect_within(name: str, found: int, least: int, most: int) -> None:
    if not least <= found <= most:
        raise ValueError(f"{name} is {found}, expected {least} to {most}")
