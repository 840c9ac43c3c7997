"""What a choice that is made on queries is worth on queries that it was not made on."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from twinspire.train.evaluation.intervals import Clusters

T = TypeVar("T")
Values = npt.NDArray[np.float64]
Metrics = Mapping[str, Values]  # name -> value of each query
FOLDS = 10


def cross_validated(
    measured: Mapping[T, Metrics],
    metric: str,
    clusters: Clusters,
    preferred: Callable[[Mapping[T, Values], Clusters], T],
) -> Metrics:
    """The metrics of each query by the setting that the clusters outside of its fold prefer.

    Args:
        measured: setting -> metrics.
        metric: that is given to `preferred`.
        clusters: of the queries.
        preferred: chooses a setting by a metric of each query, and their clusters.
    """
    fold_of = np.random.default_rng(0).permutation(len(clusters))[clusters.of] % FOLDS
    found = {name: np.empty_like(values) for name, values in next(iter(measured.values())).items()}
    for fold in np.unique(fold_of):
        rest, own = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        curve = {setting: each[metric][rest] for setting, each in measured.items()}
        setting = preferred(curve, clusters[rest])
        for name, values in found.items():
            values[own] = measured[setting][name][own]
    return found
