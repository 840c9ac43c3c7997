"""The figures of `bench`, under the names that MLflow, manifest, reports and budgets share.

    query_tower_fp32_b1_p50_us           a variant of a tower, at batch 1, on one thread (in a manifest: on
                                         the threads of `[export]`), on real records
    query_tower_b1_p50_us                the served variant
    torch_b1_p50_us                      the query tower in torch; item_tower_torch_b1_p50_us
    query_tower_fp32_short_b1_p50_us     on texts of 20 characters
    query_tower_fp32_b1_all_cores_p50_us at another thread budget
    torch_over_onnx_b1                   p50 of torch over that of the served variant

There are also p95, p99 and mean (`_us`), and `records_per_s`. `torch_over_onnx_b1` is of texts of 20
characters where the query has a text, and `torch_over_onnx_as_is_b1` of real records. Other ratios are of
real records where their names say nothing else.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from export.latency.estimate import Estimate, ratio
from export.latency.inputs import AS_IS
from export.latency.tower_latency import LatencyCase, latency_summary
from protos.bundle import Manifest, Variant
from protos.features import Side
from protos.system.timing import Times
from train.config import Experiment
from train.data.training_data import TrainingData

TORCH = "torch"
EXPORTED = "exported"  # the graph as torch exports it, without rewrites
PLAIN: Literal["fp32"] = "fp32"  # the variant that others are compared with
SERVED = "served"  # the variant in the bundle
STATISTICS = ("p50_us", "p95_us", "p99_us", "mean_us", "records_per_s")
UNITS = {"_us": "µs", "_ms": "ms", "_s": "s"}
RATIOS = ("_over_", "_share")


@dataclass(frozen=True)
class Figures:
    """Named figures: all values, and those that have an interval with it."""

    metrics: dict[str, float] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)

    def add(self, name: str, estimate: Estimate) -> None:
        """Add a figure with its interval."""
        self.metrics[name] = estimate.value
        self.estimates[name] = estimate

    def add_summary(self, prefix: str, summary: Mapping[str, Any], statistics: Iterable[str]) -> None:
        """Add statistics of a `latency_summary`; p50 and p99 have intervals."""
        self.metrics.update({f"{prefix}_{each}": summary[each] for each in statistics})
        for each in ("p50", "p99"):
            interval = summary[f"{each}_interval_us"]
            self.add(f"{prefix}_{each}_us", Estimate(summary[f"{each}_us"], *interval))

    def add_case(
        self, case: LatencyCase, taken: Mapping[str, Times], main_kind: str, seed: int
    ) -> dict[str, dict[str, Any]]:
        """Add all figures of one case of a tower, of which each backend took microseconds (turns, calls).

        Returns:
            backend -> `latency_summary`.
        """
        summaries = {name: latency_summary(times, case.batch, seed) for name, times in taken.items()}
        for name, summary in summaries.items():
            for prefix in _prefixes(case, name):
                self.add_summary(prefix, summary, STATISTICS)
        for name, over, under in _ratios(case, main_kind):
            if over in taken and under in taken:
                self.add(name, ratio([taken[over]], [taken[under]], seed))
        return summaries


def tower_names(cases: Iterable[LatencyCase], backends: Collection[str], main_kind: str) -> set[str]:
    """Names of all figures of these cases and backends."""
    names: set[str] = set()
    for case in cases:
        starts = [start for backend in backends for start in _prefixes(case, backend)]
        names |= {f"{start}_{each}" for start in starts for each in STATISTICS}
        names |= {name for name, *pair in _ratios(case, main_kind) if set(pair) <= set(backends)}
    return names


def unit(name: str) -> str | None:
    """The unit of a figure by its name, empty for a ratio; None for a rate or a count."""
    if name.endswith("_per_s"):
        return None
    found = next((symbol for end, symbol in UNITS.items() if name.endswith(end)), None)
    return "" if found is None and any(each in name for each in RATIOS) else found


def shown(name: str, value: float) -> str:
    """A figure with its unit and about four digits."""
    symbol = unit(name)
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}" + (f" {symbol}" if symbol else "")


def _suffix(case: LatencyCase) -> str:
    """Batch size and thread budget; one thread is not named."""
    threads = f"_{case.threads}_threads" if case.threads else "_all_cores"
    return f"_b{case.batch}" + ("" if case.threads == 1 else threads)


def _prefixes(case: LatencyCase, backend: str) -> list[str]:
    end = ("" if case.kind == AS_IS else f"_{case.kind}") + _suffix(case)
    tower = f"{case.side}_tower"
    own = TORCH if (case.side, backend) == ("query", TORCH) else f"{tower}_{backend}"
    return [own + end, tower + end] if backend == SERVED else [own + end]


def _ratios(case: LatencyCase, main_kind: str) -> list[tuple[str, str, str]]:
    """Name, numerator and denominator of the ratios of a case."""
    side = "" if case.side == "query" else "item_"
    kind = "" if case.kind == AS_IS else f"_{case.kind}"
    kinds = [kind]
    if (case.side, case.batch, case.threads) == ("query", 1, 1):  # the plain name belongs to the main kind
        kinds = [f"_{case.kind}", *([""] if case.kind == main_kind else [])]
    found = [(f"{side}{TORCH}_over_onnx{each}{_suffix(case)}", TORCH, SERVED) for each in kinds]
    return [*found, (f"{side}{EXPORTED}_over_{PLAIN}{kind}{_suffix(case)}", EXPORTED, PLAIN)]


class MeasuredBundle(NamedTuple):
    """A verified bundle and its experiment, whose `[bench]` are the settings.

    `data` loads the data; it is called only where the towers are measured.
    """

    folder: Path
    manifest: Manifest
    experiment: Experiment
    data: Callable[[], TrainingData]

    def variant(self, side: Side) -> Variant:
        """The variant of a tower in the bundle."""
        own = self.manifest.precision
        return own.query if side == "query" else own.item
