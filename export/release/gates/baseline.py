"""Gate `baseline`: whether the best plain baseline, such as BM25, beats the challenger beyond chance.

The figure is the upper end of the 95 % interval of the challenger less the best baseline, by its own report.
Below 0 the gate warns, or refuses with `worse_than_baseline = "refuse"`; it needs no champion.
"""

from twinspire.export.evaluation import quality
from twinspire.export.release.gate import Comparison, Gate, GateResult, Judgement
from twinspire.export.release.gates.quality import metric_of
from twinspire.train.metrics import metric_label


def judge(comparison: Comparison) -> Judgement:
    """The result, and the metric by which the two are compared; a report without baselines passes.

    Two bundles are compared by log loss where AUC selects, but a model and its baselines by AUC.
    """
    experiment, own = comparison.experiment, comparison.challenger.manifest.quality
    gates, selection = experiment.gates, experiment.training.selection
    metric = selection if gates.quality_metric == "selection" and selection in own else metric_of(experiment)
    text = quality.verdict(own, metric) if metric in own else f"the report has no {metric_label(metric)}"
    lead = quality.lead_over_best(own, metric)
    beaten, figure = (False, None) if lead is None else (lead.is_worse, lead.high)
    refused = beaten and gates.worse_than_baseline == "refuse"
    warning = text if beaten and not refused else ""
    return GateResult("baseline", figure, 0.0, not refused, text, warning), {"metric": metric}


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
