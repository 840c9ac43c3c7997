"""What a query is on its way through the retriever: prepared, encoded, found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.basis import Basis
from serving.query import Value


class Prepared(NamedTuple):
    """A query that fits the bundle, as far as can be told without encoding it.

    Args:
        name: what an error calls it, such as `queries[3]`.
        values: what it gives to each feature of the query tower; None where it is an item.
        own_row: the row of the item that it is, None where it is not one.
    """

    name: str
    values: Mapping[str, Value | None] | None
    own_row: int | None = None


class Wanted(NamedTuple):
    """What is wanted of the items that a query finds.

    Args:
        k: how many.
        exclude: rows that must not be among them.
        exclude_history: nor may those of the query's own history.
    """

    k: int
    exclude: frozenset[int] = frozenset()
    exclude_history: bool = False

    def is_only(self, k: int) -> bool:
        """Whether that is `k` items, whichever they are, of a query that has no history."""
        return self.k == k and not self.exclude


NOTHING = Wanted(0)  # of a query whose vector is all that matters


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search has to know of a query beside its vector.

    Args:
        own_row: the row of the item that it is, None where it is not one.
        history_rows: rows of those items of its history that the catalogue holds.
        unknown_history: items of its history that the tower does not know.
        basis: what its answer rests on.
    """

    own_row: int | None = None
    history_rows: frozenset[int] = frozenset()
    unknown_history: int = 0
    basis: Basis = Basis.QUERY

    def excluded(self, wanted: Wanted) -> frozenset[int]:
        """The rows that must not answer it: those it says, itself, and what is in its history."""
        rows = wanted.exclude if self.own_row is None else wanted.exclude | {self.own_row}
        return rows | self.history_rows if wanted.exclude_history else rows


TEXT = Asked()  # a query without item or history, as most are


class Encoded(NamedTuple):
    """Queries that have become vectors.

    Args:
        vectors: float32 (B, D), of unit length where the query is an item or scores are cosines.
        asked: the rest of what there is to know of each query.
        encode_us: microseconds that this took.
    """

    vectors: npt.NDArray[np.float32]
    asked: tuple[Asked, ...]
    encode_us: int


class Found(NamedTuple):
    """What one query has found.

    Args:
        rows: of the items, best first.
        scores: of each.
        asked: what there is to know of the query.
    """

    rows: list[int]
    scores: list[float]
    asked: Asked
