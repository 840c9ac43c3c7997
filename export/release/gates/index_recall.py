"""Gate `index_recall`: recall of the challenger's index, as served, against exact search.

It is measured on the examples of the challenger's bundle. A few hundred queries cannot tell .979 from .981,
so the measurement refuses only if its whole 95 % interval is below the target. The manifest's figure, which
is of all test queries, must reach the target too.
"""

import numpy as np

from export.benchmark.isolated_process import ProcessFailure
from export.release.gate import Comparison, Gate, GateResult, Judgement
from train.evaluation.intervals import Clusters, interval


def judge(comparison: Comparison) -> Judgement | None:
    """The result, and the measured recall with its interval."""
    if isinstance(comparison.served, ProcessFailure):
        return None
    index, manifest = comparison.experiment.index, comparison.challenger.manifest
    gates = comparison.gates
    k, bound = gates.recall_k or index.k, gates.recall_target or index.recall_target
    values = np.array(comparison.served["recall"]["challenger"])  # recall@k of each example
    # What a graph misses is a matter of the query's vector; 200 examples are seldom of the same group.
    found = interval(values, Clusters.single(len(values), "examples"), seed=comparison.gates.seed)
    mean, low, high = found.mean, found.low, found.high
    claimed = manifest.ann.get(f"ann_recall_at_{k}")
    claim = f"; the manifest claims {claimed:.4f}" if isinstance(claimed, float) else ""
    text = f"recall@{k} {mean:.4f} ({low:.4f} to {high:.4f}; 95 % interval, {len(values)} examples drawn)"
    text += f", at ef_search {manifest.index.ef_search}{claim}"
    below = isinstance(claimed, float) and claimed < bound
    figure = claimed if below and high >= bound else mean
    measured = {"k": k, "recall": mean, "low": low, "high": high, "queries": len(values), "claimed": claimed}
    return GateResult("index_recall", figure, bound, high >= bound and not below, text), measured


GATES = (
    Gate(
        name="index_recall",
        title="recall of the index",
        order=20,
        judge=judge,
        shown=lambda figure: f"{figure:.4f}",
        at_least=True,
        request=lambda experiment: {"k": experiment.gates.recall_k or experiment.index.k},
        note="A recall refuses if the upper end of its 95 % interval is below the bound.",
    ),
)
