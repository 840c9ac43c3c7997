"""Vectors that several items share, in an HNSW graph that stays connected.

hnswlib links an item to its nearest neighbours, and nothing is nearer than a copy. As soon as a vector has
more copies than a node has links, the copies are linked only to each other, and a search that enters them
cannot leave. So the graph is built over the distinct vectors. Then the copies of each vector are attached as
a tree: one link of the vector leads to the first copy, and each copy leads to 2 M - 2 more. If all links of
the vector were in use, the first copy takes over the replaced one; a search visits that copy right after the
vector, because it is as near. A link leads back from each copy, because a search may begin there.

Other items have no links to copies, so a search elsewhere never visits them, and the graph costs as much as
one of the distinct vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twinspire.protos.nearest.links import NO_LINK, Links

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

MAX_PLAIN_COPIES = 4  # of a vector that hnswlib handles well by itself
TOLERANCE = 1e-5  # of each coordinate: towers round differently from batch to batch
_PROJECTIONS, _CELL = 8, 1e-3  # of unit vectors; a cell is wide against rounding, so copies share it
_BLOCK = 8192


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


def attach_copies(distinct: Links, vectors: Vectors, groups: DuplicateGroups, has_padding_dim: bool) -> Links:
    """The links of all rows (N, 2 M), given those of the distinct ones, which are numbered by their place.

    Args:
        vectors: (N, D), of all rows.
    """
    links = np.full((len(vectors), distinct.shape[1]), NO_LINK, np.uint32)
    known = distinct != NO_LINK
    links[groups.distinct] = np.where(known, groups.distinct[np.where(known, distinct, 0)], NO_LINK)
    origins, firsts, group, sizes = np.unique(
        groups.origins, return_index=True, return_inverse=True, return_counts=True
    )
    fan = links.shape[1] - 2
    for start in range(0, len(groups.copied), _BLOCK):
        places = np.arange(start, min(start + _BLOCK, len(groups.copied)))
        first, size = firsts[group[places]], sizes[group[places]]
        number = places - first  # of each copy in its group
        children = (number * fan + 1)[:, None] + np.arange(fan)
        rows = groups.copied[np.minimum(first[:, None] + children, len(groups.copied) - 1)]
        parents = np.where(number, groups.copied[first + (number - 1) // fan], groups.origins[places])
        links[groups.copied[places], 0] = parents
        links[groups.copied[places], 1 : 1 + fan] = np.where(children < size[:, None], rows, NO_LINK)
    used = slice(None, -1 if has_padding_dim else None)
    for origin, first in zip(origins.tolist(), groups.copied[firsts].tolist(), strict=True):
        own = links[origin]
        place = int((own != NO_LINK).sum())
        if place == len(own):
            place = int(np.argmin(vectors[own][:, used] @ vectors[origin, used]))
            links[first, int((links[first] != NO_LINK).sum())] = own[place]
        own[place] = first
    return links
