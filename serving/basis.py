"""What an answer rests on: the query as it was asked, its context alone, or what is popular."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.features import FIRST_KNOWN, PADDING, Arrays, FeatureSpec, HistoryFeature
from serving.query import text_is_required


class Basis(StrEnum):
    """What an answer rests on.

    QUERY: the query as it was asked. CONTEXT: the query's other features; the query tower takes a
    history, but knows no item of the one given. POPULAR: nothing; the query tower knows nothing of
    what was given, so the most popular items answer.
    """

    QUERY = "query"
    CONTEXT = "context"
    POPULAR = "popular"


def bases(features: Mapping[str, FeatureSpec], arrays: Arrays) -> list[Basis]:
    """What the answer to each query of a batch can rest on.

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
