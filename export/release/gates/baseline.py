"""Gate `baseline`: whether the best plain baseline, such as BM25, beats the challenger beyond chance.

The figure is the upper end of the 95 % interval of the challenger less the best baseline, as its own report
has it; below 0 the baseline is better. By default that is a warning, because a baseline can win and the
vectors may be wanted all the same. With `worse_than_baseline = "refuse"` it refuses. It needs no champion, so
it also judges the first one.
"""

from collections.abc import Mapping
from typing import Any

from twinspire.export.evaluation import quality
from twinspire.export.release.gate import Comparison, Gate, GateResult, Judgement
from twinspire.export.release.gates.quality import metric_of
from twinspire.train.config import Experiment


def metric_beside_baselines(experiment: Experiment, metrics: Mapping[str, Any]) -> str:
    """The metric by which a model is compared with its baselines.

    Two bundles are compared by log loss where AUC selects, but a model and its baselines by AUC.

    Args:
        metrics: of the model.
    """
    selection = experiment.training.selection
    asked = experiment.gates.quality_metric
    return selection if asked == "selection" and selection in metrics else metric_of(experiment)


def judge(comparison: Comparison) -> Judgement:
    """The result, and the metric; a bundle whose report has no baselines passes."""
    own = comparison.challenger.manifest.quality
    metric = metric_beside_baselines(comparison.experiment, own)
    beaten, lead = quality.better_baseline(own, metric), quality.lead_over_best(own, metric)
    refuses = comparison.gates.worse_than_baseline == "refuse"
    text = beaten or (quality.verdict(own, metric) if metric in own else f"the report has no {metric}")
    figure = None if lead is None else lead.high
    warning = "" if refuses else beaten
    return GateResult("baseline", figure, 0.0, not (beaten and refuses), text, warning), {"metric": metric}


GATES = (
    Gate(
        name="baseline",
        title="quality against the best baseline",
        order=37,
        judge=judge,
        shown=lambda figure: f"{figure:+.4f}",
        at_least=True,
    ),
)
