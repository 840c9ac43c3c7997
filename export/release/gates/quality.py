"""Gates `quality` and `baseline`: not worse than the champion, or than the best baseline.

`quality` allows a margin, in a paired comparison of queries.

Each bundle holds the metrics of every test query. If both are of the same queries and the same split, they
are compared directly; otherwise both bundles are evaluated again on the challenger's data. The figure is
the lower end of the 95 % interval of the mean paired difference. It draws the clusters of the queries, such
as users (`train/evaluation/intervals.py`).

Towers of labelled data, whose epochs AUC or log loss selects, are judged by their log loss, pair by pair,
with a margin of its own: the figure is the upper end of the interval of the challenger's loss less the
champion's, and lower is better. Rankings cannot judge them, since nDCG@10 of a click model is near 0. If
scores are no probabilities, or the pairs do not have both labels, nDCG@10 decides, and the result says so.

A bundle that was refreshed has the champion's towers and other items. Its metrics leave out each query that
asks for a deleted or an edited item, and so does the comparison. Where the split does not apply to its items
any more, it has no metrics, and this gate holds: the towers have learned nothing else.

The figure of `baseline` is the upper end of the 95 % interval of the challenger less the best plain baseline,
such as BM25, by its own report. Below 0 the gate warns, or refuses with `worse_than_baseline = "refuse"`; it
needs no champion.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from twinspire.export.evaluation import quality
from twinspire.export.evaluation.pair_losses import LOG_LOSS, base_rate_loss
from twinspire.export.release.gate import Comparison, Decision, Gate, GateResult, Judgement, Section
from twinspire.export.release.paired_metrics import (
    Evaluated,
    evaluate_again,
    judges_labels,
    refreshed_without_metrics,
    stored,
    why_without_losses,
)
from twinspire.protos.errors import TwinspireError
from twinspire.train.config import Experiment
from twinspire.train.config.gates import GatesConfig
from twinspire.train.evaluation.baselines import LABELS
from twinspire.train.evaluation.ranking import selection_metric
from twinspire.train.markdown import plain, table
from twinspire.train.metrics import (
    DRAWN,
    DRAWN_PAIRS,
    LOWER_IS_BETTER,
    WITH_INTERVAL,
    as_higher_is_better,
    metric_label,
)


def metric_of(experiment: Experiment) -> str:
    """The metric of single queries that decides, unless log loss does."""
    asked = experiment.gates.quality_metric
    return selection_metric(experiment) if asked == "selection" else asked


def bound_of(metric: str, gates: GatesConfig) -> float:
    """The bound of the difference to the champion: at least 0 where lower is better, at most 0 elsewhere."""
    return as_higher_is_better(metric, -_margin_of(metric, gates))


def _margin_of(metric: str, gates: GatesConfig) -> float:
    return gates.log_loss_margin if metric == LOG_LOSS else gates.quality_margin


def judge(comparison: Comparison) -> Judgement | None:
    """The result, and the metrics with their differences.

    None if the bundles must be evaluated again and the challenger does not run.
    """
    try:
        why = refreshed_without_metrics(comparison.challenger, comparison.champion)
        if why:
            comparison.quality_change = dict.fromkeys(_shared(comparison), 0.0)
            text = f"not measured: {why}; the towers are those of the champion"
            return _without_figure(text, comparison.experiment, True)
        found = stored(comparison)
        if isinstance(found, str):
            if not comparison.challenger_runs:
                return None
            found = evaluate_again(found, comparison)
    except TwinspireError as error:
        return _without_figure(str(error), comparison.experiment, False)
    except Exception as error:  # errors of ONNX Runtime share no other base class
        return _without_figure(f"cannot be evaluated again: {error}", comparison.experiment, False)
    result, measured = judge_metrics(found, comparison.experiment)
    if "differences" in measured:
        found_differences = measured["differences"].items()
        comparison.quality_change = {name: round(each["mean"], 6) for name, each in found_differences}
    return result, measured


def judge_baseline(comparison: Comparison) -> Judgement:
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


def _shared(comparison: Comparison) -> list[str]:
    """The metrics in which a refreshed bundle that was not measured counts as equal to the champion."""
    with_losses = judges_labels(comparison.experiment) and not why_without_losses(comparison.challenger)
    return [metric_of(comparison.experiment), *([LOG_LOSS] if with_losses else [])]


def judge_metrics(found: Evaluated, experiment: Experiment) -> Judgement:
    """The result, and the metrics with their differences."""
    gates, decisive = experiment.gates, found.pairs or found.queries
    metric = LOG_LOSS if found.pairs else metric_of(experiment)
    is_lower_better, label, bound = metric in LOWER_IS_BETTER, metric_label(metric), bound_of(metric, gates)
    measured = _measured(found, metric, gates)
    means, lacking = measured["means"], f"; {found.lacking}, so {label} decides" if found.lacking else ""

    def result(figure: float | None, holds: bool, text: str, warning: str = "") -> GateResult:
        shown = text + lacking
        return GateResult("quality", figure, bound, holds, shown, warning, lower_is_better=is_lower_better)

    own = means["challenger"].get(metric)
    if own is None:
        each = "pair" if metric == LOG_LOSS else "query"
        return result(None, False, f"the challenger's {label} is not a number for every {each}"), measured
    shown = f"{label} {own:.4f}"
    if found.queries.champion is None:  # the bound is one of a difference
        return result(None, True, f"{shown}; there is no champion to compare it with"), measured
    if metric not in means["champion"]:
        text = f"{shown}; the champion has no {label} to compare it with"
        return result(None, False, text), measured
    differences = decisive.differences(metric, gates.seed) | found.queries.differences(metric, gates.seed)
    measured["differences"] = {name: asdict(each) for name, each in differences.items()}
    difference, champion = differences[metric], means["champion"][metric]
    over = (
        f"{measured['pairs']:,} pairs, lower is better" if found.pairs else f"{measured['queries']:,} queries"
    )
    text = f"{shown} against {champion:.4f}: {difference.text(decisive.challenger.clusters)} over {over}"
    again = found.evaluated_again
    text += f"; both evaluated again, because {again}" if again else ""
    text += "".join(f"; {each}" for each in (measured["left_out"], found.doubt) if each)
    figure = difference.high if is_lower_better else difference.low
    holds = figure <= bound if is_lower_better else figure >= bound
    return result(figure, holds, text, _wide_margin(metric, champion, found, gates)), measured


def _measured(found: Evaluated, metric: str, gates: GatesConfig) -> dict[str, Any]:
    """All but the differences.

    Args:
        metric: that decides.
    """
    queries, out = found.queries, f"{found.queries.left_out:,} queries are left out, because they ask for "
    measured: dict[str, Any] = {
        "metric": metric,
        "margin": _margin_of(metric, gates),
        "queries": len(queries.challenger.rows),
        DRAWN: str(queries.challenger.clusters),
        "evaluated_anew": found.evaluated_again,
        "left_out": f"{out}deleted or edited items" if queries.left_out else "",
        "means": {name: each.means() for name, each in queries.sides.items()},
        "intervals": queries.intervals(gates.seed),
    }
    if found.pairs is not None:
        own = found.pairs.challenger
        measured |= {"pairs": len(own.rows), DRAWN_PAIRS: str(own.clusters)}
        intervals = found.pairs.intervals(gates.seed)
        for name, each in found.pairs.sides.items():
            measured["means"][name] |= each.means()
            measured["intervals"][name] |= intervals[name]
    return measured


def _wide_margin(metric: str, champion: float, found: Evaluated, gates: GatesConfig) -> str:
    """A warning where the margin is so wide that the gate refuses next to nothing; empty elsewhere.

    Args:
        champion: its figure.
    """
    margin, label = _margin_of(metric, gates), metric_label(metric)
    own, key, what = champion, "quality_margin", f"the champion's {label} is {champion:.4f}"
    if found.pairs is not None and found.pairs.champion is not None:
        own, key = base_rate_loss(found.pairs.champion) - champion, "log_loss_margin"
        what = f"the champion's {label} is {own:.4f} below that of the base rate"
        if own <= 0:  # no margin helps
            lost = f"the champion's {label} is {-own:.4f} above that of the base rate"
            return f"{lost}, so the gate on quality says little"
    if own >= 2 * margin:
        return ""
    return f"{what}, less than two margins of {margin:g}, so the gate on quality says little; lower {key}"


def _without_figure(text: str, experiment: Experiment, holds: bool) -> Judgement:
    metric = LOG_LOSS if judges_labels(experiment) else metric_of(experiment)
    bound, is_lower_better = bound_of(metric, experiment.gates), metric in LOWER_IS_BETTER
    result = GateResult("quality", None, bound, holds, text, lower_is_better=is_lower_better)
    return result, {"error": text}


def _text(decision: Decision) -> str:
    measured = decision.measured.get("quality", {})
    if "means" not in measured:
        return plain(measured.get("error", "Not measured."))
    means, differences = measured["means"], measured.get("differences", {})
    manifest = decision.challenger.manifest.quality
    baselines = {name: label for name, label in LABELS.items() if f"{name}_ndcg_at_10" in manifest}
    rows = []
    for metric in dict.fromkeys((measured["metric"], *WITH_INTERVAL)):
        label = metric_label(metric) + (", lower is better" if metric in LOWER_IS_BETTER else "")
        row = [f"**{label}**" if metric == measured["metric"] else label]
        row += [_with_interval(means[name], metric, measured["intervals"][name]) for name in means]
        if differences:
            each = differences.get(metric)
            row.append(f"{each['mean']:+.4f} ({each['low']:+.4f} to {each['high']:+.4f})" if each else "–")
        row += [_with_interval(manifest, f"{name}_{metric}", manifest) for name in baselines]
        rows.append(row)
    heads = ["metric", *means, *(["difference (95 %)"] if differences else []), *baselines.values()]
    over = f"{measured['queries']:,} test queries"
    if "pairs" in measured:
        over += f", and of log loss over {measured['pairs']:,} labelled pairs"
    text = f"Means over {over}, by exact search, with 95 % intervals: "
    text += f"{measured[DRAWN]} drawn"
    text += f", and of log loss {measured[DRAWN_PAIRS]}." if "pairs" in measured else "."
    if measured["evaluated_anew"]:
        text += f" Evaluated again on the challenger's data, because {plain(measured['evaluated_anew'])}."
    if measured.get("left_out"):
        text += f" {measured['left_out']}."
    if baselines:
        text += " Baselines are those of the challenger's own report: "
        text += f"{plain(manifest.get('verdict', ''))}."
    return f"{text}\n\n{table(heads, rows, 'l' + 'r' * (len(heads) - 1))}"


def _with_interval(figures: Mapping[str, Any], name: str, intervals: Mapping[str, Any]) -> str:
    value = figures.get(name)
    if not isinstance(value, float):
        return "–"
    low, high = intervals.get(f"{name}_low"), intervals.get(f"{name}_high")
    reach = f" ({low:.4f} to {high:.4f})" if isinstance(low, float) and isinstance(high, float) else ""
    return f"{value:.4f}{reach}"


GATES = (
    Gate(
        name="quality",
        title="quality against the champion",
        order=30,
        judge=judge,
        shown=lambda figure: f"{figure:+.4f}",
        at_least=True,
        note="The figure of quality is the end of the 95 % interval of the paired difference at which the "
        "challenger is worse: the lower one, or the upper one of log loss, where lower is better.",
        section=Section(title="Quality", text=_text),
    ),
    Gate(
        name="baseline",
        title="quality against the best baseline",
        order=37,
        judge=judge_baseline,
        shown=lambda figure: f"{figure:+.4f}",
        at_least=True,
    ),
)
