"""What an answer rests on: the query as it was asked, its context alone, what is popular, or nothing."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.features import FIRST_KNOWN, PADDING, Arrays, FeatureSpec, HistoryFeature
from serving.query import text_is_required

Vectors = npt.NDArray[np.float32]


class Basis(StrEnum):
    """What an answer rests on.

    QUERY: the query as it was asked. CONTEXT: the query's other features; the query tower takes a
    history, but knows no item of the one given. POPULAR: the most popular items; the query tower knows
    nothing of what was given. NONE: nothing, so there are no hits; as POPULAR, but in the bundle no item is
    more popular than others.
    """

    QUERY = "query"
    CONTEXT = "context"
    POPULAR = "popular"
    NONE = "none"

    @property
    def is_searched(self) -> bool:
        """Whether the index is searched for the answer."""
        return self in (Basis.QUERY, Basis.CONTEXT)


class Blank:
    """Finds the queries that say nothing to a query tower that takes a text.

    Such a query has the vector of the blank query, in which everything is absent: its text has no n-gram or
    word that the tower gives a weight, and it has no other feature. That vector is zero in many towers, but
    not in those with a bias.

    Args:
        vector: of the blank query, float32 (1, D).
    """

    EQUAL = 1e-5  # of the largest coordinate: rounding of float32
    # As EQUAL, in a batch, where int8 layers may take their scales from the whole batch. A wide bound, chosen
    # and not measured: a query within it is encoded again alone, and EQUAL decides.
    NEAR = 0.25

    def __init__(self, vector: Vectors) -> None:
        self._vector = vector
        self._first = float(vector[0, 0])
        largest = float(np.abs(vector).max())
        self._equal, self._near = self.EQUAL * largest, self.NEAR * largest

    def may_be_in(self, vectors: Vectors) -> bool:
        """Whether a query of a batch may say nothing; a quick look at the first coordinates.

        Args:
            vectors: of the batch, float32 (B, D).
        """
        if len(vectors) == 1:
            return bool(abs(vectors.item(0) - self._first) <= self._equal)
        return bool((np.abs(vectors[:, 0] - self._first) <= self._near).any())

    def places(self, vectors: Vectors, encode_alone: Callable[[int], Vectors]) -> list[int]:
        """The places in a batch of the queries that say nothing; the same as for each query alone.

        Args:
            vectors: of the batch, float32 (B, D).
            encode_alone: gives the vector (1, D) of the query at a place, encoded without the others.
        """
        if len(vectors) == 1:
            return [0] if self._equals(vectors) else []
        near = np.flatnonzero(np.abs(vectors - self._vector).max(axis=1) <= self._near).tolist()
        return [n for n in near if self._equals(vectors[n]) or self._equals(encode_alone(n))]

    def _equals(self, vector: Vectors) -> bool:
        return bool(np.abs(vector - self._vector).max() <= self._equal)


def bases(features: Mapping[str, FeatureSpec], arrays: Arrays) -> list[Basis]:
    """What the answer to each query of a batch can rest on, as far as the tower's inputs show it.

    Args:
        features: of the query tower.
        arrays: its inputs, (B, ...) each.
    """
    known = {name: _is_known(spec, arrays[name]) for name, spec in features.items()}
    anything = np.logical_or.reduce(list(known.values()))  # (B,)
    if text_is_required(features):  # so one was given, be it empty
        return [Basis.QUERY] * len(anything)
    histories = [known[name] for name, spec in features.items() if isinstance(spec, HistoryFeature)]
    enough = np.logical_or.reduce(histories) if histories else anything  # (B,)
    return [
        Basis.QUERY if whole else Basis.CONTEXT if some else Basis.POPULAR
        for whole, some in zip(enough.tolist(), anything.tolist(), strict=True)
    ]


def _is_known(spec: FeatureSpec, array: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether each query says something in a feature that the tower has learnt to read: (B,)."""
    if spec.kind == "number":
        known = ~np.isnan(array)
    else:
        known = array >= (PADDING + 1 if spec.kind == "text" else FIRST_KNOWN)
    found: npt.NDArray[np.bool_] = known.any(axis=1)
    return found
