"""Gates `query_tower_latency` and `retriever_latency`: p99 of one query, as a ratio to the champion's.

Both bundles take short turns in one process. Each round of turns gives a ratio, and the figure is the median
over the rounds. A gate refuses only if the whole 95 % interval of its ratio is above the bound, so that noise
refuses no challenger.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from twinspire.export.benchmark.isolated_process import ProcessFailure
from twinspire.export.release.gate import Comparison, Decision, Gate, GateResult, Judgement, Section
from twinspire.train.markdown import plain, table

ROUNDS = 10
RESAMPLES = 2000  # of the bootstrap over rounds


def judge(part: str, comparison: Comparison) -> Judgement | None:
    """The result, and the measured latencies.

    Args:
        part: `query_tower` or `retriever`.
    """
    if isinstance(comparison.served, ProcessFailure):
        return None
    # Version -> `p50_us` and `p99_us` of each round, in microseconds.
    rounds = comparison.served["latency"][part]
    gates = comparison.gates
    bound = gates.query_tower_p99_ratio if part == "query_tower" else gates.retriever_p99_ratio
    name, sides = f"{part}_latency", {version: _summary(each) for version, each in rounds.items()}
    measured: dict[str, Any] = {"sides": sides}
    p99 = f"p99 {sides['challenger']['p99_us']:,.0f} µs"
    if "champion" not in sides:
        text = f"{p99}; there is no champion to compare it with"
        return GateResult(name, None, bound, True, text), {part: measured}
    for percentile in ("p50", "p99"):
        own, other = (rounds[version][f"{percentile}_us"] for version in ("challenger", "champion"))
        measured[f"{percentile}_ratio"] = _ratio(own, other, comparison.gates.seed)
    ratio = measured["p99_ratio"]
    text = (
        f"{p99} against {sides['champion']['p99_us']:,.0f} µs: {ratio['median']:.2f} times "
        f"({ratio['low']:.2f} to {ratio['high']:.2f}) as long"
    )
    return GateResult(name, ratio["median"], bound, ratio["low"] <= bound, text), {part: measured}


def _summary(rounds: Mapping[str, Any]) -> dict[str, float]:
    """The medians of p50 and p99 over the rounds, which one bad round does not move."""
    return {name: float(np.median(rounds[name])) for name in ("p50_us", "p99_us")}


def _ratio(challenger: Sequence[float], champion: Sequence[float], seed: int) -> dict[str, Any]:
    """The median of the rounds' ratios, with the 95 % interval of a bootstrap over rounds."""
    ratios = np.array(challenger) / np.array(champion)
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return {
        "median": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "rounds": ratios.tolist(),
    }


def _text(decision: Decision) -> str:
    measured = decision.measured.get("latency")
    if not measured:
        return "Not measured."
    rows = []
    for part, found in measured.items():
        for percentile in ("p50", "p99"):
            row = [part.replace("_", " "), percentile]
            row += [f"{each[f'{percentile}_us']:,.0f} µs" for each in found["sides"].values()]
            ratio = found.get(f"{percentile}_ratio")
            row += [f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"] if ratio else []
            rows.append(row)
    versions = list(decision.versions)
    heads = ["", "", *versions, *(["ratio (95 %)"] if len(versions) > 1 else [])]
    machine, threads = decision.measured["machine"], decision.measured["threads"]
    budget = f"{threads} thread{'s' if threads != 1 else ''}" if threads else "all threads"
    conditions = (
        f"One query at a time, {budget}, both bundles in short turns in one process, on "
        f"{plain(machine['processor'])} with {machine['cores']} cores. "
        "The latency of a query is the median of five calls; figures are medians over rounds."
    )
    return f"{conditions}\n\n{table(heads, rows, 'll' + 'r' * (len(heads) - 2))}"


SECTION = Section(title="Latency", text=_text)


def _gate(part: str, title: str, order: int, note: str = "") -> Gate:
    return Gate(
        name=f"{part}_latency",
        title=title,
        order=order,
        judge=partial(judge, part),
        shown=lambda figure: f"{figure:.2f} ×",
        measured_as="latency",
        request=lambda experiment: {"iterations": experiment.gates.iterations, "rounds": ROUNDS},
        note=note,
        section=SECTION,
    )


GATES = (
    _gate(
        "query_tower",
        "p99 of the query tower",
        order=40,
        note=(
            "The figure of a latency is the median ratio of several rounds; it refuses only if the lower end "
            "of its 95 % interval is above the bound."
        ),
    ),
    _gate("retriever", "p99 of the retriever", order=50),
)
