"""Budgets: bounds of figures of a bench.

    [bench]
    budgets = { query_tower_b1_p99_us = 200.0, retriever_b1_p99_us = 2000.0 }

A budget is an upper bound of times and shares, and a lower bound of speed-ups such as `torch_over_onnx_b1`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from export.benchmark.figures import shown, unit
from protos.errors import ConfigError

SPEED_UPS = ("torch_over_", "exported_over_")


@dataclass(frozen=True)
class Budget:
    """One figure and its bound."""

    name: str
    figure: float | None  # None where it could not be measured
    bound: float
    holds: bool  # whether the figure is within the bound
    at_least: bool  # whether it is a lower bound
    text: str  # name, figure and bound


def check_names(budgets: Collection[str], known: Collection[str]) -> None:
    """Refuse budgets of unknown figures.

    Raises:
        ConfigError: a budget is of no figure of this bench; the text lists similar names.
    """
    able = sorted(name for name in known if unit(name) is not None)
    for name in budgets:
        if name not in able:
            close = get_close_matches(name, able, 4, 0.5)
            similar = f"; close to it: {', '.join(close)}" if close else ""
            raise ConfigError(f"bench.budgets.{name}: expected a time or ratio of this bench{similar}")


def judge(
    budgets: Mapping[str, float], metrics: Mapping[str, float], left_out: Collection[str]
) -> list[Budget]:
    """Compare budgets with figures; those of figures of parts that were left out are skipped."""
    return [
        _judged(name, bound, metrics.get(name))
        for name, bound in budgets.items()
        if name in metrics or name not in left_out
    ]


def _judged(name: str, bound: float, figure: float | None) -> Budget:
    at_least = any(each in name for each in SPEED_UPS)
    if figure is None:
        text = f"{name} was not measured (budget {shown(name, bound)})"
        return Budget(name, figure, bound, False, at_least, text)
    relation = "at least" if at_least else "at most"
    text = f"{name} is {shown(name, figure)}, its budget {relation} {shown(name, bound)}"
    holds = figure >= bound if at_least else figure <= bound
    return Budget(name, figure, bound, holds, at_least, text)
