"""Gate `index_recall`: the challenger's index as it is served against exact search, on its own examples."""

from typing import Any

import numpy as np

from export.gates.decision import Gate, Side
from train.config import Experiment
from train.metrics import interval


def at(experiment: Experiment) -> int:
    """The k of recall@k."""
    return experiment.gates.recall_k or experiment.index.k


def judge(challenger: Side, experiment: Experiment, recalls: list[float]) -> tuple[Gate, dict[str, Any]]:
    """The gate, and what was measured for it.

    A few hundred queries do not tell .979 from .981, so what they show is refused where the whole of its
    95 % interval is below the target; what the manifest claims of all test queries has to reach it, too.

    Args:
        recalls: recall@k of each example.
    """
    k, bound = at(experiment), experiment.gates.recall_target or experiment.index.recall_target
    values = np.array(recalls)
    mean = float(values.mean())
    low, high = interval(values, seed=experiment.gates.seed)
    claimed = challenger.manifest.ann.get(f"ann_recall_at_{k}")
    claim = f"; the manifest claims {claimed:.4f}" if isinstance(claimed, float) else ""
    text = f"recall@{k} {mean:.4f} ({low:.4f} to {high:.4f}) on {len(values)} examples, at ef_search "
    text += f"{challenger.manifest.index.ef_search}{claim}"
    below = isinstance(claimed, float) and claimed < bound
    figure = claimed if below and high >= bound else mean
    measured = {"k": k, "recall": mean, "low": low, "high": high, "queries": len(values), "claimed": claimed}
    return Gate("index_recall", figure, bound, high >= bound and not below, text), measured
