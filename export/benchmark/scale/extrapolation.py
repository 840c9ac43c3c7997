"""Fits to the measured sizes, and by these how many items a machine holds and how long a rebuild takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from export.benchmark.report_writer import value
from export.benchmark.scale.measuring.settings import DIMENSION

MACHINES = (16, 64, 256)  # GiB
USABLE = 0.8  # share of a machine's memory; the rest is for the system and other processes
WIDE = 512  # D of the default text towers
FLOAT_BYTES = 4
# Where the fitted figures are in the measurements of a size.
BUILDING, LOADING, SERVING = "build.seconds", "load.seconds", "load.rss_bytes"
ENCODED = "encode.items_per_s"

Document = Mapping[str, Any]


class PowerLaw(NamedTuple):
    """`factor * N ** exponent`."""

    exponent: float
    factor: float

    def at(self, items: float) -> float:
        """The value at N."""
        return float(self.factor * items**self.exponent)


class Line(NamedTuple):
    """`base + each * N`."""

    each: float
    base: float

    def at(self, items: float) -> float:
        """The value at N."""
        return self.base + self.each * items


def power_law(sizes: Sequence[float], values: Sequence[float]) -> PowerLaw | None:
    """Least squares in logarithms; None with fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    exponent, factor = np.polyfit(np.log(sizes), np.log(values), 1)
    return PowerLaw(float(exponent), float(np.exp(factor)))


def line(sizes: Sequence[float], values: Sequence[float]) -> Line | None:
    """Least squares of relative errors, so that all sizes count; None with fewer than two."""
    if len(set(sizes)) < 2:
        return None
    each, base = np.polyfit(sizes, values, 1, w=1 / np.asarray(values, np.float64))
    return Line(float(each), float(base))


def at_target(size: Document) -> bool:
    """Whether recall reaches its target, on the queries that ef_search was chosen on and on the others."""
    search = size["search"]
    return bool(search["reached"]) and search["recall"] >= search["target"]


def without_missed(sizes: Sequence[Document]) -> list[Document]:
    """The sizes without times of the graph where it misses the target of recall."""
    kept = [
        {name: each for name, each in size["search"].items() if at_target(size) or "graph" not in name}
        for size in sizes
    ]
    return [{**size, "search": search} for size, search in zip(sizes, kept, strict=True)]


def points(sizes: Sequence[Document], path: str) -> tuple[list[float], list[float]]:
    """Items and a figure of each size; times of the graph only where it reaches the target."""
    shown = [each for each in without_missed(sizes) if value(each, path) is not None]
    return [each["items"] for each in shown], [value(each, path) for each in shown]


@dataclass(frozen=True)
class Laws:
    """The fits of at least two sizes, of which the smallest comes first."""

    sizes: Sequence[Document]
    building: PowerLaw  # seconds
    loading: Line  # seconds
    serving: Line  # bytes

    def rebuild_s(self, items: float) -> float:
        """Seconds to encode, at the speed of the largest size, to build and to load."""
        encoding = items / value(self.sizes[-1], ENCODED)
        return float(encoding + self.building.at(items) + max(0.0, self.loading.at(items)))

    def bytes_an_item(self, dimension: int) -> float:
        """Bytes of a serving process: graph (with a vector of its own), catalogue, and the mapped vector."""
        return self.serving.each + FLOAT_BYTES * (2 * dimension - DIMENSION)

    def items_in(self, gib: float, dimension: int) -> float:
        """The most items that a machine with this memory serves."""
        room = USABLE * gib * 2**30 - max(0.0, self.serving.base)
        return max(0.0, room / self.bytes_an_item(dimension))


def laws_of(sizes: Sequence[Document]) -> Laws | None:
    """The fits of measured sizes; None with fewer than two."""
    building = power_law(*points(sizes, BUILDING))
    loading, serving = line(*points(sizes, LOADING)), line(*points(sizes, SERVING))
    if building is None or loading is None or serving is None:
        return None
    return Laws(sizes, building, loading, serving)


def capacity(laws: Laws) -> dict[str, Any]:
    """What machines of some sizes hold."""
    machines = []
    for gib in MACHINES:
        items = laws.items_in(gib, DIMENSION)
        wide, build = laws.items_in(gib, WIDE), laws.building.at(items)
        counts = {"items": items, "items_beside_another": items / 2, "items_wide": wide}
        machines.append({"gib": gib, **counts, "build_s": build, "rebuild_s": laws.rebuild_s(items)})
    return {"largest": laws.sizes[-1]["items"], "machines": machines}
