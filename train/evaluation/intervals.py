"""95 % intervals of means and of paired differences, by draws of whole clusters.

    clusters = clusters_of(data, "test")                      # of the queries of `by_query`
    interval(own["ndcg_at_10"], clusters)                     # of a metric
    interval(own["ndcg_at_10"], clusters, other["ndcg_at_10"])  # of a difference on the same queries

Queries about one module, or of one user, are right or wrong together, so that draws of single queries give
intervals that are too narrow. A draw takes as many clusters as there are, with replacement, and all queries
of each (Field and Welsh 2007); its mean is the sum of their values by their number. The ends are the
percentiles of the draws (Efron and Tibshirani 1993, chapter 13), moved away from the mean by the ratio of
Student's quantile to the normal one, because percentiles of few clusters are too narrow (Hesterberg 2015,
section 4). The degrees of freedom are those of the effective number of clusters, which is smaller where sizes
differ (Carter, Schnepel and Steigerwald 2017): the squared number of queries by the sum of squared sizes.
Without that, intervals of 8 clusters of unequal size cover the truth in 86 % of samples, with it in 95 %.

An event of a log has one group, its user; other pairs have the group of the split and no user. So there is
one kind of clusters in any data set, and no draws of two kinds at once.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from twinspire.train.data.training_data import Pairs, Rows, TrainingData
from twinspire.train.metrics import DRAWN, DRAWN_PAIRS, Floats

T = TypeVar("T")
Values = npt.NDArray[np.floating[Any]]
DRAWS = 2000
LEAST_SHOWN = 0.001  # two figures that are closer look the same with three digits
NORMAL = 1.959964  # quantile .975 of the normal distribution
_BLOCK = 2_000_000  # numbers that are drawn at a time


@dataclass(frozen=True)
class Interval:
    """A mean, or a mean difference, and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def standard_error(self) -> float:
        """Of the mean, from the width of the interval."""
        return (self.high - self.low) / (2 * 1.96)

    @property
    def is_better(self) -> bool:
        """Of a difference: whether it is above 0 beyond chance, and large enough to be seen."""
        return self.low > 0 and self.mean >= LEAST_SHOWN

    @property
    def is_worse(self) -> bool:
        """Of a difference: whether it is below 0 beyond chance, and large enough to be seen."""
        return self.high < 0 and self.mean <= -LEAST_SHOWN

    @property
    def tie(self) -> str:
        """Of a difference that is neither: why, in words."""
        return "a tie with" if self.low > 0 or self.high < 0 else "no difference beyond chance to"

    def named(self, name: str) -> dict[str, float]:
        """`<name>`, `<name>_low` and `<name>_high`."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}

    def text(self, clusters: "Clusters | str") -> str:
        """A difference and its interval.

        Args:
            clusters: that were drawn, or their text that a manifest holds.
        """
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}, 95 % interval, {clusters} drawn)"


@dataclass(frozen=True)
class Clusters:
    """Which of Q values depend on each other. `str` says what is drawn: "214 modules".

    Args:
        of: int64 (Q,), the cluster of each value, from 0 on without gaps.
        unit: what a cluster is, in the plural.
        weights: (Q,), of each value in the mean; None if they are equal.
    """

    of: Rows
    unit: str
    weights: Floats | None = None

    @classmethod
    def single(cls, count: int, unit: str = "queries") -> "Clusters":
        """Values that do not depend on each other."""
        return cls(np.arange(count), unit)

    @classmethod
    def by(cls, groups: Rows | None, count: int, unit: str, single: str = "queries") -> "Clusters":
        """Values of some groups. Where these are not known, each value is a cluster.

        Args:
            groups: (Q,), any numbers.
            count: Q.
            unit: what a group is, in the plural.
            single: what a value is of, in the plural.
        """
        if groups is None:
            return cls.single(count, single)
        return cls(np.unique(groups, return_inverse=True)[1].astype(np.int64), unit)

    def __len__(self) -> int:
        return int(self.of.max(initial=-1)) + 1

    def __str__(self) -> str:
        return f"{len(self):,} {self.unit}"

    def __getitem__(self, rows: Rows) -> "Clusters":
        """The clusters of some of the values."""
        return Clusters.by(self.of[rows], len(rows), self.unit)

    @cached_property
    def sizes(self) -> Floats:
        """(G,): number of values of each cluster, or the sum of their weights."""
        return np.bincount(self.of, self.weights).astype(np.float64)

    @cached_property
    def small_sample_factor(self) -> float:
        """By which the ends of percentiles are moved away from the mean; about 1 for many clusters."""
        from scipy.stats import t  # its import takes a third of a second

        count, effective = len(self), self.sizes.sum() ** 2 / (self.sizes**2).sum()
        freedom = max(1.0, effective - 1)
        return float(t.ppf(0.975, freedom) / NORMAL * math.sqrt(count / max(1, count - 1)))

    def draws(self, draws: int = DRAWS, seed: int = 0, most: int = _BLOCK) -> Iterator[Rows]:
        """(B, G) clusters of some draws at a time, until there are `draws`.

        Args:
            most: numbers at a time; at least one draw is returned.
        """
        generator, count = np.random.default_rng(seed), len(self)
        block = max(1, most // max(1, count))
        for at in range(0, draws, block):
            yield generator.integers(0, count, (min(block, draws - at), count))

    def interval(self, figure: float, drawn: Floats, lowest: float, highest: float) -> Interval:
        """A figure of all values with its interval, which is the whole range if there is one cluster alone.

        Args:
            figure: of all values.
            drawn: the figure by each draw.
            lowest, highest: the range of the figure.
        """
        if len(self) == 1:
            return Interval(figure, lowest, highest)
        low, high = (float(end) for end in np.quantile(drawn, (0.025, 0.975)))
        low = figure + self.small_sample_factor * min(0.0, low - figure)
        high = figure + self.small_sample_factor * max(0.0, high - figure)
        return Interval(figure, max(low, lowest), min(high, highest))


def clusters_of(data: TrainingData, part: str) -> Clusters:
    """The clusters of the queries of a part, in the order of `Pairs.by_query`.

    A query whose pairs are of several groups, as a sentence that two modules hold, counts for that of its
    first pair. (Groups that share a query could be one cluster, but in a log of clicks one query leads to the
    next until all are one.)
    """
    pairs = data.parts[part].positive()
    queries, first = np.unique(pairs.query, return_index=True)
    groups = pairs.clusters
    return Clusters.by(None if groups is None else groups[first], len(queries), _unit(data, pairs))


def pair_clusters_of(data: TrainingData, part: str) -> Clusters:
    """The clusters of the pairs of a part, positive and negative."""
    pairs = data.parts[part]
    return Clusters.by(pairs.clusters, len(pairs), _unit(data, pairs), "pairs")


def drawn_in(data: TrainingData, part: str) -> dict[str, str]:
    """What the intervals of a part draw, such as "214 modules".

    Returns:
        `drawn` of rankings, and of metrics of labels `drawn_pairs`, where there are any: a user without a
        positive pair has no query to rank for.
    """
    found = {DRAWN: str(clusters_of(data, part))}
    if data.parts[part].has_both_labels:
        found[DRAWN_PAIRS] = str(pair_clusters_of(data, part))
    return found


def _unit(data: TrainingData, pairs: Pairs) -> str:
    return data.unit if pairs.user is None else "users"


def interval(
    values: Values, clusters: Clusters, other: Values | None = None, seed: int = 0, highest: float = 1.0
) -> Interval:
    """The mean of a metric between 0 and `highest`, or its mean difference, with the 95 % interval.

    Args:
        values: (Q,), of each query, or of each pair.
        other: (Q,), the metric of the same queries by another model, that is subtracted.
    """
    values = values.astype(np.float64) - (0.0 if other is None else other.astype(np.float64))
    mean = float(np.average(values, weights=clusters.weights))
    values = values if clusters.weights is None else values * clusters.weights
    sums, sizes = np.bincount(clusters.of, values), clusters.sizes
    means = [sums[rows].sum(axis=1) / sizes[rows].sum(axis=1) for rows in clusters.draws(seed=seed)]
    return clusters.interval(mean, np.concatenate(means), 0.0 if other is None else -highest, highest)


def within_standard_error(curve: Mapping[T, Floats], clusters: Clusters) -> list[T]:
    """The settings that are at most a standard error of the difference below the best one, in their order.

    Args:
        curve: setting -> a metric of each query; higher is better.
    """
    best = max(curve.values(), key=np.mean)
    lost = {setting: best - each for setting, each in curve.items()}
    # Where one cluster alone differs, the loss is exactly the standard error, apart from rounding.
    return [
        setting for setting, each in lost.items() if each.mean() <= _standard_error(each, clusters) + 1e-12
    ]


def _standard_error(values: Floats, clusters: Clusters) -> float:
    """Of the mean, as a ratio of two sums over clusters (Cochran 1977, equation 6.13); infinite for one."""
    if len(clusters) == 1:
        return math.inf
    residuals = np.bincount(clusters.of, values) - values.mean() * clusters.sizes
    unbiased = len(clusters) / (len(clusters) - 1)
    return float((unbiased * (residuals**2).sum()) ** 0.5 / len(values))
