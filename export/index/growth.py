"""From a sample to the whole: what a search costs on more items than it was measured on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.index.width import Point

PART = 4  # a sample's quarter shows how costs grow
MISSED = 1e-4  # the least share that counts as missed, for its logarithm


@dataclass(frozen=True)
class Growth:
    """How a graph does on all items, from how it does on some and on fewer.

    Args:
        curve: on the sample.
        smaller: on a `PART`-th of it; empty where the sample is the whole.
        times: so many times the sample is the whole.
        target: recall at which the two are compared, or the highest that both reach.
    """

    curve: Sequence[Point]
    smaller: Sequence[Point]
    times: float
    target: float

    @property
    def factor(self) -> float:
        """So many times a query takes as long on all items: a power of their number, and never below 1."""
        if not self.curve or not self.smaller:
            return 1.0
        tops = (max(point["recall"] for point in curve) for curve in (self.curve, self.smaller))
        level = min(self.target, *tops)
        costs = cost_at(self.curve, level), cost_at(self.smaller, level)
        if costs[0] is None or costs[1] is None:
            return 1.0
        return float(max(1.0, costs[0] / costs[1]) ** (math.log(self.times) / math.log(PART)))

    def cost_us(self) -> float | None:
        """Microseconds of a query at the target on all items; None where a sample does not reach it."""
        cost = cost_at(self.curve, self.target)
        return None if cost is None else cost * self.factor

    def recall_within(self, budget: float) -> float:
        """The recall on all items that so many microseconds a query pay for; 0 where they pay for none."""
        affordable, factor = 0.0, self.factor
        for missed in np.geomspace(0.999, MISSED, 100):
            cost = cost_at(self.curve, 1 - float(missed))
            if cost is None or cost * factor > budget:
                break
            affordable = 1 - float(missed)
        return affordable


def cost_at(curve: Sequence[Point], target: float) -> float | None:
    """Microseconds of a query at a recall, from the widths around it; None where no width reaches it.

    Between two widths time is taken as a power of the share that is missed, which it nearly is.
    """
    below: Point | None = None
    for point in curve:
        if point["recall"] >= target:
            if below is None:
                return float(point["us_per_query"])
            high, low, wanted = (
                math.log(max(MISSED, 1 - recall)) for recall in (below["recall"], point["recall"], target)
            )
            share = 1.0 if high == low else (high - wanted) / (high - low)
            return float(below["us_per_query"] ** (1 - share) * point["us_per_query"] ** share)
        below = point
    return None
