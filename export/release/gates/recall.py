"""Gates `index_recall` and `filtered_recall`: recall of the challenger's index, as served.

Both are measured with the service's code, on the examples of the challenger's bundle. A few hundred queries
cannot tell .979 from .981, so a measurement refuses only if its whole 95 % interval is below the target.

`index_recall` compares with exact search. The manifest's figure, which is of all test queries, must reach the
target too.

`filtered_recall` compares with exact search among the items that pass, by the share of the items that pass,
with filters on the bundle's filter fields: random ones, and ones that are anti-correlated with the query,
which its nearest items do not pass. It also refuses if an answer has fewer hits than exist, or a hit that
does not pass. A bundle without filter fields passes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.export.benchmark.isolated_process import ProcessFailure
from twinspire.export.release.gate import Comparison, Decision, Gate, GateResult, Judgement, Section
from twinspire.train.evaluation.intervals import Clusters, Interval, interval
from twinspire.train.markdown import table

NAMES = {"random": "random", "anti_correlated": "anti-correlated with the query"}
Bucket = Mapping[str, Any]


def judge_index(comparison: Comparison) -> Judgement | None:
    """The result, and the measured recall with its interval."""
    if isinstance(comparison.served, ProcessFailure):
        return None
    index, manifest = comparison.experiment.index, comparison.challenger.manifest
    gates = comparison.gates
    k, bound = gates.recall_k or index.k, gates.recall_target or index.recall_target
    values = np.array(comparison.served["recall"]["challenger"])  # recall@k of each example
    found = _interval(values, comparison.gates.seed)
    mean, low, high = found.mean, found.low, found.high
    claimed = manifest.ann.get(f"ann_recall_at_{k}")
    claim = f"; the manifest claims {claimed:.4f}" if isinstance(claimed, float) else ""
    text = f"recall@{k} {mean:.4f} ({low:.4f} to {high:.4f}; 95 % interval, {len(values)} examples drawn)"
    text += f", at ef_search {manifest.index.ef_search}{claim}"
    below = isinstance(claimed, float) and claimed < bound
    figure = claimed if below and high >= bound else mean
    measured = {"k": k, "recall": mean, "low": low, "high": high, "queries": len(values), "claimed": claimed}
    return GateResult("index_recall", figure, bound, high >= bound and not below, text), measured


def judge_filtered(comparison: Comparison) -> Judgement | None:
    """The result, and the recall of each bucket with its interval."""
    bound = comparison.gates.filtered_recall_target or comparison.experiment.index.recall_target
    if not comparison.challenger.manifest.filters:
        return GateResult("filtered_recall", None, bound, True, "the bundle has no filter fields"), {}
    if isinstance(comparison.served, ProcessFailure):
        return None
    found = comparison.served["filtered"]["challenger"]
    if not found:
        text = "the filter fields allow no filter that half, 10 %, 1 % or .1 % of the items pass"
        return GateResult("filtered_recall", None, bound, True, text), {"buckets": []}
    buckets = [_bucket(each, comparison.gates.seed) for each in found]
    broken = sum(each["incomplete"] + each["wrong"] for each in buckets)
    lowest = min(buckets, key=lambda each: float(each["recall"]))
    refused = min(buckets, key=lambda each: float(each["high"]))
    is_low = refused["high"] < bound
    shown = refused if is_low else lowest
    figure, holds = shown["recall"], not is_low and not broken
    text = f"recall {figure:.4f} where {_named(shown)}, of {len(buckets)} buckets "
    text += "the one whose interval ends lowest" if is_low else "the lowest"
    if broken:
        text += f"; {broken} answers or hits are wrong: too few hits, or one that does not pass"
    return GateResult("filtered_recall", figure, bound, holds, text), {"buckets": buckets}


def _bucket(found: Bucket, seed: int) -> dict[str, Any]:
    values = np.array(found["recall"])
    reached = _interval(values, seed)
    figures = {"recall": reached.mean, "low": reached.low, "high": reached.high, "queries": len(values)}
    return {**found, **figures}


def _named(bucket: Bucket) -> str:
    return f"{bucket['selectivity']:.1%} pass, {NAMES[bucket['kind']]}"


def _buckets(decision: Decision) -> Sequence[Bucket]:
    found: Sequence[Bucket] = decision.measured.get("filtered_recall", {}).get("buckets", [])
    return found


def _text(decision: Decision) -> str:
    buckets = _buckets(decision)
    if not buckets:
        return ""
    rows = [
        [
            _named(each),
            f"{each['passing']:.2%}",
            f"{each['recall']:.4f} ({each['low']:.4f} to {each['high']:.4f})",
            str(each["incomplete"] + each["wrong"]),
            ", ".join(f"{plan} {count}" for plan, count in sorted(each["plans"].items())),
        ]
        for each in buckets
    ]
    head = ["filters", "items that pass", "recall", "wrong answers", "queries by plan"]
    return (
        "Recall against exact search among the items that pass, with the plans that the service chose; "
        "95 % intervals draw examples.\n\n" + table(head, rows, "lrrrl")
    )


def _interval(values: npt.NDArray[np.float64], seed: int) -> Interval:
    """The mean recall (Q,) of examples, with the interval that draws them.

    What a graph misses is a matter of the query's vector; 200 examples are seldom of the same group.
    """
    return interval(values, Clusters.single(len(values), "examples"), seed=seed)


GATES = (
    Gate(
        name="index_recall",
        title="recall of the index",
        order=20,
        judge=judge_index,
        shown=lambda figure: f"{figure:.4f}",
        at_least=True,
        request=lambda experiment: {"k": experiment.gates.recall_k or experiment.index.k},
        note="A recall refuses if the upper end of its 95 % interval is below the bound.",
    ),
    Gate(
        name="filtered_recall",
        title="recall with filters",
        order=25,
        judge=judge_filtered,
        shown=lambda figure: f"{figure:.4f}",
        at_least=True,
        request=lambda _experiment: {"filtered": ["challenger"]},
        note="The recall with filters is that of its lowest bucket, and refuses as that of the index does.",
        section=Section(title="Search with filters", text=_text),
    ),
)
