"""Budgets: figures of a bench that must keep a bound.

    [bench]
    budgets = { query_tower_b1_p99_us = 200.0, retriever_b1_p99_us = 2000.0 }

Times and shares may be at most what their budget says, and what something is faster by, such as
`torch_over_onnx_b1`, at least.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from protos.errors import ConfigError

UNITS = {"_us": "µs", "_ms": "ms", "_s": "s"}
GAINS = ("torch_over_", "exported_over_")  # the more the better
RATIOS = ("_over_", "_share")


@dataclass(frozen=True)
class Budget:
    """One figure and its bound.

    Args:
        figure: None where it was asked for and could not be measured.
        holds: whether it keeps the bound.
        at_least: whether the bound is the least that it may be.
    """

    name: str
    figure: float | None
    bound: float
    holds: bool
    at_least: bool

    def text(self) -> str:
        """Name, figure and bound, as people are told."""
        if self.figure is None:
            return f"{self.name} was not measured (budget {shown(self.name, self.bound)})"
        relation = "at least" if self.at_least else "at most"
        figure, bound = shown(self.name, self.figure), shown(self.name, self.bound)
        return f"{self.name} is {figure}, its budget {relation} {bound}"


def check_names(budgets: Collection[str], known: Collection[str]) -> None:
    """Refuse budgets of what is no figure of this bench.

    Raises:
        ConfigError: there is one; the text lists figures whose names are close to it.
    """
    able = sorted(name for name in known if unit(name) is not None)
    for name in budgets:
        if name not in able:
            close = get_close_matches(name, able, 4, 0.5)
            told = f"; close to it: {', '.join(close)}" if close else ""
            raise ConfigError(f"bench.budgets.{name}: expected a time or ratio of this bench{told}")


def judge(
    budgets: Mapping[str, float], metrics: Mapping[str, float], left_out: Collection[str]
) -> list[Budget]:
    """Each budget beside its figure; those of parts that were left out on purpose are not among them.

    Args:
        left_out: names of figures that nobody asked for this time.
    """
    judged = []
    for name, bound in budgets.items():
        figure, at_least = metrics.get(name), GAINS[0] in name or GAINS[1] in name
        if figure is None and name in left_out:
            continue
        holds = figure is not None and (figure >= bound if at_least else figure <= bound)
        judged.append(Budget(name, figure, bound, holds, at_least))
    return judged


def unit(name: str) -> str | None:
    """The unit of a figure by its name, empty of a ratio; None of what no budget can be set for."""
    if name.endswith("_per_s"):
        return None
    found = next((told for end, told in UNITS.items() if name.endswith(end)), None)
    return "" if found is None and any(each in name for each in RATIOS) else found


def shown(name: str, value: float) -> str:
    """A figure with its unit; four digits are all that a bench is good for."""
    told = unit(name)
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}" + (f" {told}" if told else "")
