"""Vectors that several items share, in a graph that still leads everywhere.

hnswlib links an item to its nearest, and nothing is nearer than a copy: as soon as a vector has more copies
than a node has links, they are linked to each other alone, and no search that comes in finds its way out.
So the graph is grown over the distinct vectors. Then the copies of each hang on it as a tree: one link of
the vector leads to the first copy, a copy leads to 2 M - 1 more. If the vector's links were all taken, the
first copy takes over the one that was given up; it is looked at right after the vector, being as near.

Copies have no other links, so a search elsewhere never meets them, and the graph costs what the distinct
vectors cost. The file is that of any hnswlib graph; `serving/graph_file.py` describes it.
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

LEAST = 4  # copies of a vector from which on they hang on it; hnswlib copes with fewer
ALIKE = 1e-5  # in each coordinate: towers round differently from batch to batch
_PROJECTIONS, _CELL = 8, 1e-3  # of unit vectors; wide beside what rounding does, so copies share their cells
_BLOCK = 8192
_HEADER = struct.Struct("<6QiI3QdQ")
_MAX_ELEMENTS, _COUNT, _SIZE, _MAX_M0 = 1, 2, 3, 9  # places in the header


@dataclass(frozen=True)
class Groups:
    """Which rows are copies.

    Args:
        distinct: rows that the graph is grown over, ascending.
        copied: rows that are copies, those of one vector next to each other.
        origins: for each of `copied` the row in `distinct` that it is a copy of.
    """

    distinct: Rows
    copied: Rows
    origins: Rows


def find(vectors: Vectors, filled: bool) -> Groups | None:
    """The copies among rows of unit length (N, D), or None where no vector has enough to matter.

    Args:
        filled: the last coordinate only fills up to unit length, and does not count.
    """
    cells = np.concatenate([_cells(block, filled) for _, block in _blocks(vectors)])
    _, first, cell = np.unique(cells, return_index=True, return_inverse=True)
    origins = first[cell]
    for start, block in _blocks(vectors):
        rows = np.arange(start, start + len(block))
        doubtful = rows[origins[rows] != rows]
        apart = np.abs(vectors[doubtful] - vectors[origins[doubtful]])[:, : -1 if filled else None]
        other = doubtful[(apart > ALIKE).any(axis=1)]
        origins[other] = other
    sizes = np.bincount(origins, minlength=len(vectors))
    is_copy = (origins != np.arange(len(vectors))) & (sizes[origins] > LEAST)
    if not is_copy.any():
        return None
    copied = np.flatnonzero(is_copy)
    copied = copied[np.argsort(origins[copied], kind="stable")]
    return Groups(np.flatnonzero(~is_copy), copied, origins[copied])


def _cells(block: Vectors, filled: bool) -> npt.NDArray[np.int64]:
    """A number for each row, the same for copies, and for others hardly ever: (B,)."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((block.shape[1], _PROJECTIONS)).astype(np.float32)
    if filled:
        directions[-1] = 0
    places = np.floor(block @ directions / _CELL).astype(np.int64)  # (B, projections)
    return np.asarray((places * random.integers(1, 2**62, _PROJECTIONS)).sum(axis=1))


def _blocks(vectors: Vectors) -> Iterator[tuple[int, Vectors]]:
    for start in range(0, len(vectors), _BLOCK):
        yield start, vectors[start : start + _BLOCK]


def attach(bare: Path, whole: Path, vectors: Vectors, groups: Groups, filled: bool) -> None:
    """Write the graph of all rows, given that of the distinct ones, with neither of them in memory.

    Args:
        bare: file of the graph over `groups.distinct`.
        whole: file to write.
        vectors: (N, D), of all rows.
    """
    with bare.open("rb") as file:
        header = list(_HEADER.unpack(file.read(_HEADER.size)))
    count, room, dimension = header[_COUNT], header[_MAX_M0], vectors.shape[1]
    element = np.dtype(
        [("number", "<u4"), ("links", "<u4", room), ("vector", "<f4", dimension), ("label", "<u8")]
    )
    elements = np.memmap(bare, element, "r", _HEADER.size, (count,))
    lost, changed = _gave_way(elements, groups, room)
    header[_MAX_ELEMENTS] = header[_COUNT] = len(vectors)
    with whole.open("wb") as out:
        out.write(_HEADER.pack(*header))
        _write_distinct(out, elements, changed)
        for block in _copies(element, groups, count, lost, room):
            block["vector"] = vectors[block["label"].astype(np.int64)]
            if filled:
                block["vector"][:, -1] = 0
            out.write(block.tobytes())
        _write_upper(out, bare, _HEADER.size + count * element.itemsize, len(groups.copied))


def _gave_way(elements: Any, groups: Groups, room: int) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    """How the copied vectors come to lead to their first copies.

    Returns:
        first copy -> the link that was given up for it, and element -> place in its links, first copy;
        both as places in the file.
    """
    owners = np.full(int(groups.origins.max()) + 1, -1, np.int64)  # label -> element
    labels = elements["label"].astype(np.int64)
    known = labels < len(owners)
    owners[labels[known]] = np.flatnonzero(known)
    origins, firsts = np.unique(groups.origins, return_index=True)
    lost: dict[int, int] = {}
    changed: dict[int, tuple[int, int]] = {}
    for owner, first in zip(owners[origins].tolist(), (len(elements) + firsts).tolist(), strict=True):
        place = int(elements["number"][owner])
        if place == room:
            links = elements["links"][owner]
            place = int(np.argmin(elements["vector"][links] @ elements["vector"][owner]))
            lost[first] = int(links[place])
        changed[owner] = place, first
    return lost, changed


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
    element: np.dtype[Any], groups: Groups, start: int, lost: dict[int, int], room: int
) -> Iterator[Any]:
    """The elements of the copies, block by block, without their vectors; each leads to its children."""
    total, fan = len(groups.copied), room - 1
    _, firsts, group, sizes = np.unique(
        groups.origins, return_index=True, return_inverse=True, return_counts=True
    )
    for begin in range(0, total, _BLOCK):
        places = np.arange(begin, min(begin + _BLOCK, total))
        first, size = firsts[group[places]], sizes[group[places]]
        child = (places - first) * fan + 1  # the first of each, counted in its own group
        number = np.clip(size - child, 0, fan)
        block = np.zeros(len(places), element)
        taken = np.arange(fan) < number[:, None]
        block["links"][:, :fan] = np.where(taken, (start + first + child)[:, None] + np.arange(fan), 0)
        block["number"], block["label"] = number, groups.copied[places]
        for place in places[places == first].tolist():
            if start + place in lost:
                row = block[place - begin]
                row["links"][row["number"]] = lost[start + place]
                row["number"] += 1
        yield block


def _write_upper(out: BinaryIO, bare: Path, offset: int, copied: int) -> None:
    """The links above the lowest level as they are; no copy is up there."""
    with bare.open("rb") as file:
        file.seek(offset)
        while part := file.read(1 << 20):
            out.write(part)
    out.write(bytes(4 * copied))
