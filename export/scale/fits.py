"""What a handful of sizes say of others: a power of N, or a straight line."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PowerLaw:
    """`factor * N ** exponent`."""

    exponent: float
    factor: float

    def at(self, items: float) -> float:
        """The value at N."""
        return float(self.factor * items**self.exponent)


@dataclass(frozen=True)
class Line:
    """`base + each * N`."""

    each: float
    base: float

    def at(self, items: float) -> float:
        """The value at N."""
        return self.base + self.each * items


def power_law(sizes: Sequence[float], values: Sequence[float]) -> PowerLaw | None:
    """The power that fits best in logarithms, by least squares; None of fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    exponent, factor = np.polyfit(np.log(sizes), np.log(values), 1)
    return PowerLaw(float(exponent), float(np.exp(factor)))


def line(sizes: Sequence[float], values: Sequence[float]) -> Line | None:
    """The line that fits best where each point counts by its share, not by its size; None of fewer than two.

    Least squares of the relative errors: else the largest size alone would draw the line.
    """
    if len(set(sizes)) < 2:
        return None
    each, base = np.polyfit(sizes, values, 1, w=1 / np.asarray(values, np.float64))
    return Line(float(each), float(base))
