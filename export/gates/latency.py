"""Gates `query_tower_latency` and `retriever_latency`: p99 of one query, as a ratio to the champion's.

Both bundles take short turns in one process. Each round gives a ratio; the median over the rounds is the
figure, and only where the whole of its 95 % interval is above the bound is a challenger refused, so that no
refusal comes from noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from export.gates.decision import Gate
from train.config import Experiment

ROUNDS = 10
DRAWS = 2000

NAMES = {"query_tower": "query_tower_latency", "retriever": "retriever_latency"}


def judge(experiment: Experiment, found: Mapping[str, Any]) -> tuple[list[Gate], dict[str, Any]]:
    """Both gates, and what was measured for them.

    Args:
        found: `query_tower` and `retriever`, each bundle -> `p50_us`, `p99_us` of each round, and
            `quantiles_us`.
    """
    gates: list[Gate] = []
    measured: dict[str, dict[str, Any]] = {}
    for what, name in NAMES.items():
        bound = getattr(experiment.gates, f"{what}_p99_ratio")
        sides = {side: _summary(each) for side, each in found[what].items()}
        measured[what] = {"sides": sides}
        p99 = f"p99 {sides['challenger']['p99_us']:,.0f} µs"
        if "champion" not in sides:
            gates.append(Gate(name, None, bound, True, f"{p99}; there is no champion to compare it with"))
            continue
        for percentile in ("p50", "p99"):
            own, other = (found[what][side][f"{percentile}_us"] for side in ("challenger", "champion"))
            measured[what][f"{percentile}_ratio"] = _ratio(own, other, experiment.gates.seed)
        ratio = measured[what]["p99_ratio"]
        text = (
            f"{p99} against {sides['champion']['p99_us']:,.0f} µs: {ratio['median']:.2f} times "
            f"({ratio['low']:.2f} to {ratio['high']:.2f}) as long"
        )
        gates.append(Gate(name, ratio["median"], bound, ratio["low"] <= bound, text))
    return gates, measured


def _summary(each: Mapping[str, Any]) -> dict[str, Any]:
    """The rounds' median p50 and p99, which one bad round does not move."""
    found = {name: float(np.median(each[name])) for name in ("p50_us", "p99_us")}
    return {**found, "quantiles_us": each["quantiles_us"]}


def _ratio(challenger: Sequence[float], champion: Sequence[float], seed: int) -> dict[str, Any]:
    """The median of the rounds' ratios, with the 95 % interval of a bootstrap over rounds."""
    ratios = np.array(challenger) / np.array(champion)
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (DRAWS, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return {
        "median": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "rounds": ratios.tolist(),
    }
