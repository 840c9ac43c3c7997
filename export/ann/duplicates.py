"""Vectors that several items share, in an HNSW graph that stays connected.

hnswlib links an item to its nearest neighbours, and nothing is nearer than a copy. As soon as a vector has
more copies than a node has links, the copies are linked only to each other, and a search that enters them
cannot leave. So the graph is built over the distinct vectors. Then the copies of each vector are attached as
a tree: one link of the vector leads to the first copy, and each copy leads to 2 M - 1 more. If all links of
the vector were in use, the first copy takes over the replaced one; a search visits that copy right after the
vector, because it is as near.

Copies have no other links, so a search elsewhere never visits them, and the graph costs as much as one of the
distinct vectors. The file has the format of any hnswlib graph, described in `serving/index/hnsw_file.py`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

MAX_PLAIN_COPIES = 4  # of a vector that hnswlib handles well by itself
TOLERANCE = 1e-5  # of each coordinate: towers round differently from batch to batch
_PROJECTIONS, _CELL = 8, 1e-3  # of unit vectors; a cell is wide against rounding, so copies share it
_BLOCK = 8192
_HEADER = struct.Struct("<6QiI3QdQ")
_MAX_ELEMENTS, _COUNT, _MAX_M0 = 1, 2, 9  # places in the header


@dataclass(frozen=True)
class DuplicateGroups:
    """Which rows are copies of which.

    Args:
        distinct: rows that the graph is built over, ascending.
        copied: rows that are copies, grouped by their vector.
        origins: for each of `copied` the row in `distinct` that it copies.
    """

    distinct: Rows
    copied: Rows
    origins: Rows


def find_duplicates(vectors: Vectors, has_padding_dim: bool) -> DuplicateGroups | None:
    """The copies among rows of unit length (N, D), or None if no vector has more than hnswlib handles well.

    Args:
        has_padding_dim: the last coordinate only pads the row to unit length, and is ignored.
    """
    cells = np.concatenate([_cells(block, has_padding_dim) for _, block in _blocks(vectors)])
    _, first, cell = np.unique(cells, return_index=True, return_inverse=True)
    origins = first[cell]
    for start, block in _blocks(vectors):
        rows = np.arange(start, start + len(block))
        candidates = rows[origins[rows] != rows]
        differences = np.abs(vectors[candidates] - vectors[origins[candidates]])[
            :, : -1 if has_padding_dim else None
        ]
        other = candidates[(differences > TOLERANCE).any(axis=1)]
        origins[other] = other
    sizes = np.bincount(origins, minlength=len(vectors))
    is_copy = (origins != np.arange(len(vectors))) & (sizes[origins] > MAX_PLAIN_COPIES)
    if not is_copy.any():
        return None
    copied = np.flatnonzero(is_copy)
    copied = copied[np.argsort(origins[copied], kind="stable")]
    return DuplicateGroups(np.flatnonzero(~is_copy), copied, origins[copied])


def _cells(block: Vectors, has_padding_dim: bool) -> npt.NDArray[np.int64]:
    """A hash for each row, (B,): equal for copies, and rarely for other rows."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((block.shape[1], _PROJECTIONS)).astype(np.float32)
    if has_padding_dim:
        directions[-1] = 0
    places = np.floor(block @ directions / _CELL).astype(np.int64)  # (B, projections)
    return np.asarray((places * random.integers(1, 2**62, _PROJECTIONS)).sum(axis=1))


def _blocks(vectors: Vectors) -> Iterator[tuple[int, Vectors]]:
    for start in range(0, len(vectors), _BLOCK):
        yield start, vectors[start : start + _BLOCK]


def attach_copies(
    distinct: Path, complete: Path, vectors: Vectors, groups: DuplicateGroups, has_padding_dim: bool
) -> None:
    """Write the graph of all rows, given that of the distinct ones; neither is loaded into memory.

    Args:
        distinct: file of the graph over `groups.distinct`.
        complete: file to write.
        vectors: (N, D), of all rows.
    """
    with distinct.open("rb") as file:
        header = list(_HEADER.unpack(file.read(_HEADER.size)))
    count, room, dimension = header[_COUNT], header[_MAX_M0], vectors.shape[1]
    element = np.dtype(
        [("number", "<u4"), ("links", "<u4", room), ("vector", "<f4", dimension), ("label", "<u8")]
    )
    elements = np.memmap(distinct, element, "r", _HEADER.size, (count,))
    replaced, changed = _link_first_copies(elements, groups, room)
    header[_MAX_ELEMENTS] = header[_COUNT] = len(vectors)
    with complete.open("wb") as out:
        out.write(_HEADER.pack(*header))
        _write_distinct(out, elements, changed)
        for block in _copies(element, groups, count, replaced, room):
            block["vector"] = vectors[block["label"].astype(np.int64)]
            if has_padding_dim:
                block["vector"][:, -1] = 0
            out.write(block.tobytes())
        _write_upper_levels(out, distinct, _HEADER.size + count * element.itemsize, len(groups.copied))


def _link_first_copies(
    elements: Any, groups: DuplicateGroups, room: int
) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    """Choose the link of each copied vector that will lead to its first copy.

    Returns:
        first copy -> the link that it replaces, if any, and element -> (place in its links, first copy).
        Elements and copies are numbered by their place in the file.
    """
    owners = np.full(int(groups.origins.max()) + 1, -1, np.int64)  # label -> element
    labels = elements["label"].astype(np.int64)
    known = labels < len(owners)
    owners[labels[known]] = np.flatnonzero(known)
    origins, firsts = np.unique(groups.origins, return_index=True)
    replaced: dict[int, int] = {}
    changed: dict[int, tuple[int, int]] = {}
    for owner, first in zip(owners[origins].tolist(), (len(elements) + firsts).tolist(), strict=True):
        place = int(elements["number"][owner])
        if place == room:
            links = elements["links"][owner]
            place = int(np.argmin(elements["vector"][links] @ elements["vector"][owner]))
            replaced[first] = int(links[place])
        changed[owner] = place, first
    return replaced, changed


def _write_distinct(out: BinaryIO, elements: Any, changed: dict[int, tuple[int, int]]) -> None:
    owners = np.array(sorted(changed))
    for start in range(0, len(elements), _BLOCK):
        block = np.array(elements[start : start + _BLOCK])
        for owner in owners[np.searchsorted(owners, start) : np.searchsorted(owners, start + len(block))]:
            place, first = changed[int(owner)]
            row = owner - start
            block["links"][row, place] = first
            block["number"][row] = max(int(block["number"][row]), place + 1)
        out.write(block.tobytes())


def _copies(
    element: np.dtype[Any], groups: DuplicateGroups, start: int, replaced: dict[int, int], room: int
) -> Iterator[Any]:
    """The elements of the copies, block by block, without their vectors; each links to its children."""
    total, fan = len(groups.copied), room - 1
    _, firsts, group, sizes = np.unique(
        groups.origins, return_index=True, return_inverse=True, return_counts=True
    )
    for begin in range(0, total, _BLOCK):
        places = np.arange(begin, min(begin + _BLOCK, total))
        first, size = firsts[group[places]], sizes[group[places]]
        child = (places - first) * fan + 1  # the first child of each, as a place in its group
        number = np.clip(size - child, 0, fan)
        block = np.zeros(len(places), element)
        taken = np.arange(fan) < number[:, None]
        block["links"][:, :fan] = np.where(taken, (start + first + child)[:, None] + np.arange(fan), 0)
        block["number"], block["label"] = number, groups.copied[places]
        for place in places[places == first].tolist():
            if start + place in replaced:
                row = block[place - begin]
                row["links"][row["number"]] = replaced[start + place]
                row["number"] += 1
        yield block


def _write_upper_levels(out: BinaryIO, distinct: Path, offset: int, copied: int) -> None:
    """Copy the links above the lowest level; no copy of a vector has any."""
    with distinct.open("rb") as file:
        file.seek(offset)
        while part := file.read(1 << 20):
            out.write(part)
    out.write(bytes(4 * copied))
