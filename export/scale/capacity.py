"""What the measured sizes say of one machine: how much it holds, and how long it takes to make that anew.

Everything beyond the largest size that was measured is extrapolated, and whoever shows it says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.scale.fits import Line, PowerLaw, line, power_law
from export.scale.measuring.subject import DIMENSION
from protos.beam import EXACT_SHARE

MACHINES = (16, 64, 256)  # GiB
USABLE = 0.8  # of a machine's memory; the rest is for the system and what else runs there
WIDE = 512  # D of the house's text towers
FLOAT = 4  # bytes
# Within which an item has to be found: five minutes, an hour, a working day.
WITHIN = (300.0, 3600.0, 8 * 3600.0)
MOST = 1e12  # items; more are not looked for

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Laws:
    """What sizes have in common.

    Args:
        largest: N of the largest that was measured.
        build_s: seconds to build the graph.
        p50_us: of a query through the graph, of sizes that reach the target; None of fewer than two.
        exact_p50_us: of a query by exact search.
        serving: bytes of a process that serves, less what it maps of the vectors.
        building: bytes at the peak of building.
        load_s: seconds to load.
        items_per_s: encoded, at the largest size.
    """

    largest: int
    build_s: PowerLaw
    p50_us: PowerLaw | None
    exact_p50_us: PowerLaw
    serving: Line
    building: Line
    load_s: Line
    items_per_s: float

    def rebuild_s(self, items: float) -> float:
        """Seconds from a table of items to a service that answers from it: encode, build, load."""
        return items / self.items_per_s + self.build_s.at(items) + max(0.0, self.load_s.at(items))

    def items_within(self, seconds: float) -> float:
        """The most items whose rebuild takes no longer."""
        low, high = 1.0, MOST
        for _ in range(100):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.rebuild_s(middle) <= seconds else (low, middle)
        return low

    def bytes_an_item(self, dimension: int) -> float:
        """In a process that serves: its part of graph and catalogue, and its vector, mapped and read.

        The graph holds a vector, too.
        """
        return self.serving.each + FLOAT * (dimension - DIMENSION) + FLOAT * dimension

    def items_in(self, gib: float, dimension: int) -> float:
        """The most items that a machine with so much memory serves."""
        room = USABLE * gib * 2**30 - max(0.0, self.serving.base)
        return max(0.0, room / self.bytes_an_item(dimension))


def laws_of(sizes: Sequence[Document]) -> Laws | None:
    """What measured sizes have in common; None of fewer than two."""
    counts = [each["items"] for each in sizes]
    if len(set(counts)) < 2:
        return None
    largest = max(sizes, key=lambda each: int(each["items"]))
    reached = [each for each in sizes if at_target(each)]
    build_s = power_law(counts, [each["build"]["seconds"] for each in sizes])
    exact = power_law(counts, [each["search"]["exact"]["p50_us"] for each in sizes])
    serving = line(counts, [each["load"]["rss_bytes"] for each in sizes])
    building = line(counts, [each["build"]["peak_bytes"] for each in sizes])
    load_s = line(counts, [each["load"]["seconds"] for each in sizes])
    assert build_s and exact and serving and building and load_s  # there are two sizes
    return Laws(
        largest["items"],
        build_s,
        power_law(
            [each["items"] for each in reached], [each["search"]["graph"]["p50_us"] for each in reached]
        ),
        exact,
        serving,
        building,
        load_s,
        largest["encode"]["items_per_s"],
    )


def at_target(size: Document) -> bool:
    """Whether a size reaches the recall that all figures are of: as chosen, and on the queries held out."""
    search = size["search"]
    return bool(search["reached"]) and search["recall"] >= search["target"]


def capacity(laws: Laws, largest: Document, vectors: int) -> dict[str, Any]:
    """What one machine holds, how fresh that can be, what a filter costs.

    Args:
        largest: the largest size that was measured.
        vectors: a number of items to say all that for, too; 0 for none.
    """
    return {
        "bytes_an_item": {str(d): laws.bytes_an_item(d) for d in (DIMENSION, WIDE)},
        "graph_bytes_an_item": largest["build"]["file_bytes"] / largest["items"],
        "building_bytes_an_item": laws.building.each,
        "usable": USABLE,
        "machines": [_machine(laws, gib) for gib in MACHINES],
        "within": [{"seconds": each, "items": laws.items_within(each)} for each in WITHIN],
        "inserts_per_s": largest["items"] / largest["build"]["seconds"],
        "rebuild_s": laws.rebuild_s(largest["items"]),
        "filters": _filters(largest),
        "exact_from_share": _exact_from_share(largest),
        "at": _at(laws, vectors) if vectors else None,
    }


def _machine(laws: Laws, gib: int) -> dict[str, Any]:
    items = laws.items_in(gib, DIMENSION)
    return {
        "gib": gib,
        "items": items,
        "items_beside_another": items / 2,
        "items_wide": laws.items_in(gib, WIDE),
        "build_s": laws.build_s.at(items),
        "rebuild_s": laws.rebuild_s(items),
    }


def _filters(largest: Document) -> list[dict[str, Any]]:
    """What a query takes where a filter lets a share of the items through, and k have to be left of them."""
    search = largest["search"]
    plain = search["graph"]["p50_us"]
    widths = sorted(int(name[6:]) for name in search if name.startswith("graph_") and name[6:].isdigit())
    return [
        {
            "share": search["k"] / width,
            "width": width,
            "p50_us": search[f"graph_{width}"]["p50_us"],
            "ratio": search[f"graph_{width}"]["p50_us"] / plain,
        }
        for width in widths
    ]


def _exact_from_share(largest: Document) -> float:
    """Of a filter that lets fewer than this share through, the service compares with every item."""
    return float(largest["search"]["k"] * EXACT_SHARE / largest["items"])


def _at(laws: Laws, items: int) -> dict[str, Any]:
    return {
        "items": items,
        "serving_bytes": laws.serving.at(items) + FLOAT * DIMENSION * items,
        "building_bytes": laws.building.at(items),
        "build_s": laws.build_s.at(items),
        "p50_us": None if laws.p50_us is None else laws.p50_us.at(items),
    }
