"""Figures of several rounds: the middle one, and how far they reach."""

import math
import statistics
from collections.abc import Mapping

from serving.load.measured import Measured


class Figures:
    """Values by name, one a round."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, **values: float) -> None:
        """One more value of each."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def add_calls(self, prefix: str, measured: Measured) -> None:
        """Requests a second, and latencies of those that were answered."""
        self.add(
            **{
                f"{prefix}_rps": measured.rps,
                f"{prefix}_p50_us": measured.percentile_us(50),
                f"{prefix}_p99_us": measured.percentile_us(99),
            }
        )

    def median(self, name: str) -> float:
        """The middle of the values; NaN where there are none that are numbers."""
        values = [each for each in self._values.get(name, ()) if not math.isnan(each)]
        return statistics.median(values) if values else math.nan

    def divide(self, name: str, above: str, *below: str) -> None:
        """A ratio of each round, where all its parts were measured: one by the sum of others."""
        parts = [self._values.get(each, []) for each in (above, *below)]
        for numerator, *rest in zip(*parts, strict=False):
            self.add(**{name: numerator / sum(rest) if sum(rest) else math.nan})

    def document(self) -> dict[str, float | None]:
        """Each name's median, and `_min` and `_max` where there are more; None for NaN."""
        found: dict[str, float | None] = {}
        for name, values in self._values.items():
            found[name] = rounded(self.median(name))
            if len(values) > 1:
                found[f"{name}_min"], found[f"{name}_max"] = rounded(min(values)), rounded(max(values))
        return found


def rounded(value: float) -> float | None:
    """With five digits that count; JSON has no NaN."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def rounded_all(values: Mapping[str, float]) -> dict[str, float | None]:
    """All of them."""
    return {name: rounded(value) for name, value in values.items()}
