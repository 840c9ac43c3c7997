"""Gate `quality`: not worse than the champion by more than a margin, in a paired comparison of queries.

Each bundle holds the metrics of every test query. If both are of the same queries and the same split, they
are compared directly; otherwise both bundles are evaluated again on the challenger's data. The figure is
the lower end of the 95 % interval of the mean paired difference. It draws the clusters of the queries, such
as users, which one of the two bundles brings (`train/evaluation/intervals.py`). If neither does, single
queries are drawn, and the result says so.

A bundle that was refreshed has the champion's towers and other items. Its metrics leave out each query that
asks for a deleted or an edited item, and so does the comparison. Where the split does not apply to its items
any more, it has no metrics, and this gate holds: the towers have learned nothing else.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from export.bundles import why_not_comparable
from export.evaluation import per_query, quality
from export.evaluation.per_query import PerQuery
from export.markdown import plain, table
from export.release.gate import ComparedVersion, Comparison, Decision, Gate, GateResult, Judgement, Section
from export.served_model import served_model
from protos import bundle
from protos.errors import DataError, TwinspireError
from train.config import Experiment
from train.data.training_data import TrainingData
from train.evaluation.baselines import LABELS
from train.evaluation.intervals import Clusters, Interval, interval
from train.evaluation.plots import MODEL_COLOUR, QUIET_COLOUR, style_axes
from train.evaluation.ranking import selection_metric
from train.metrics import WITH_INTERVAL, metric_label

REFUSED_COLOUR = "#b3362d"


@dataclass(frozen=True)
class Evaluated:
    """The metrics of the same queries by one or both bundles.

    Args:
        challenger, champion: of each bundle.
        evaluated_again: why they were evaluated again; empty if the bundles hold them.
        left_out: which queries are left out, in words; empty if none is.
    """

    challenger: PerQuery
    champion: PerQuery | None
    evaluated_again: str
    left_out: str = ""

    @property
    def clusters(self) -> Clusters:
        """Of the queries."""
        sides = (self.challenger, self.champion)
        known = (each.clusters for each in sides if each is not None and each.clusters is not None)
        return next(known, Clusters.single(len(self.challenger.queries), quality.SINGLE))


def metric_of(experiment: Experiment) -> str:
    """The metric that decides."""
    asked = experiment.gates.quality_metric
    return selection_metric(experiment) if asked == "selection" else asked


def metric_beside_baselines(experiment: Experiment, metrics: Mapping[str, Any]) -> str:
    """The metric by which a model is compared with its baselines.

    AUC and log loss are not means over queries, so two bundles are not compared by them, but a model and its
    baselines are.

    Args:
        metrics: of the model.
    """
    selection = experiment.training.selection
    asked = experiment.gates.quality_metric
    return selection if asked == "selection" and selection in metrics else metric_of(experiment)


def judge(comparison: Comparison) -> Judgement | None:
    """The result, and the metrics with their differences.

    None if the bundles must be evaluated again and the challenger does not run.
    """
    try:
        why = refreshed_without_metrics(comparison.challenger, comparison.champion)
        if why:
            comparison.quality_change = {metric_of(comparison.experiment): 0.0}
            text = f"not measured: {why}; the towers are those of the champion"
            return GateResult("quality", None, -comparison.gates.quality_margin, True, text), {"error": text}
        found = stored(comparison.challenger, comparison.champion)
        if isinstance(found, str):
            if not comparison.challenger_runs:
                return None
            found = evaluate_again(found, comparison)
    except TwinspireError as error:
        return _not_evaluated(str(error), comparison.gates.quality_margin)
    except Exception as error:  # errors of ONNX Runtime share no other base class
        return _not_evaluated(f"cannot be evaluated again: {error}", comparison.gates.quality_margin)
    result, measured = judge_metrics(found, comparison.experiment)
    if "differences" in measured:
        found_differences = measured["differences"].items()
        comparison.quality_change = {name: round(each["mean"], 6) for name, each in found_differences}
    own = comparison.challenger.manifest.quality
    beside = quality.better_baseline(own, metric_beside_baselines(comparison.experiment, own))
    return replace(result, warning=beside), measured


def stored(challenger: ComparedVersion, champion: ComparedVersion | None) -> Evaluated | str:
    """The metrics that the bundles hold, or why they cannot be compared.

    Raises:
        BundleDamaged: a file of metrics is damaged.
    """
    own = per_query.load(challenger.folder)
    if own is None:
        return "the challenger brings no metrics of single queries"
    if champion is None:
        return Evaluated(own, None, "")
    other = per_query.load(champion.folder)
    if other is None:
        return "the champion brings no metrics of single queries"
    before = champion.manifest
    if why := why_not_comparable(challenger.manifest, before.split_hash, before.dataset):
        is_other_split = challenger.manifest.split_hash != before.split_hash
        return f"{why}; the champion may have learned some of the queries" if is_other_split else why
    if has_same_towers(challenger, champion):
        all_queries = len(other.queries)
        own, other = per_query.common(own, other)
        if not len(own.queries):
            return "no test query is in both bundles"
        out = all_queries - len(own.queries)
        left_out = (
            f"{out:,} queries are left out, because they ask for deleted or edited items" if out else ""
        )
        return Evaluated(own, other, "", left_out)
    if not np.array_equal(own.queries, other.queries):  # hashes of texts, not vectors
        return "the towers do not read the same of each query"
    return Evaluated(own, other, "")


def has_same_towers(challenger: ComparedVersion, champion: ComparedVersion | None) -> bool:
    """Whether the challenger was refreshed from a bundle with the champion's towers."""
    if champion is None or challenger.manifest.refreshed_from is None:
        return False
    return all(
        challenger.manifest.files[name].sha256 == champion.manifest.files[name].sha256
        for name in bundle.TOWERS.values()
    )


def refreshed_without_metrics(challenger: ComparedVersion, champion: ComparedVersion | None) -> str:
    """Why a refreshed challenger has no metrics of single queries; empty if it has, or other towers.

    Raises:
        BundleDamaged: a file of metrics is damaged.
    """
    if not has_same_towers(challenger, champion) or per_query.load(challenger.folder) is not None:
        return ""
    return str(challenger.manifest.quality.get("not_measured") or "it brings no metrics of single queries")


def evaluate_again(why: str, comparison: Comparison) -> Evaluated:
    """Both bundles evaluated on the challenger's data, each with an index built with its own parameters.

    Args:
        why: the reason, for the report.

    Raises:
        TwinspireError: a bundle cannot be evaluated on these data.
    """
    data, threads = comparison.data(), comparison.experiment.index.threads
    own = _evaluate(comparison.challenger, data, threads, comparison.console)
    champion = comparison.champion
    other = None if champion is None else _evaluate(champion, data, threads, comparison.console)
    return Evaluated(own, other, why)


def judge_metrics(found: Evaluated, experiment: Experiment) -> Judgement:
    """The result, and the metrics with their differences."""
    margin, seed = experiment.gates.quality_margin, experiment.gates.seed
    metric, bound = metric_of(experiment), -margin
    sides, clusters = {"challenger": found.challenger, "champion": found.champion}, found.clusters
    means = {name: _means(each) for name, each in sides.items() if each is not None}
    measured: dict[str, Any] = {
        "metric": metric,
        "margin": margin,
        "queries": len(found.challenger.queries),
        "drawn": str(clusters),
        "evaluated_anew": found.evaluated_again,
        "left_out": found.left_out,
        "means": means,
        "intervals": {
            name: _intervals(each, clusters, seed) for name, each in sides.items() if each is not None
        },
    }
    own = means["challenger"].get(metric)
    if own is None:
        text = f"the challenger's {metric_label(metric)} is not a number for every query"
        return GateResult("quality", None, bound, False, text), measured
    shown = f"{metric_label(metric)} {own:.4f}"
    if found.champion is None:
        text = f"{shown}; there is no champion to compare it with"
        return GateResult("quality", None, bound, True, text), measured  # the bound is one of a difference
    differences = _differences(found.challenger, found.champion, metric, clusters, seed)
    if metric not in differences:
        text = f"{shown}; the champion has no {metric_label(metric)} to compare it with"
        return GateResult("quality", None, bound, False, text), measured
    difference = differences[metric]
    text = f"{shown} against {means['champion'][metric]:.4f}: {difference.text(clusters)}"
    text += f" over {measured['queries']:,} queries"
    text += "; the bundles hold no clusters" if clusters.unit == quality.SINGLE else ""
    text += f"; both evaluated again, because {found.evaluated_again}" if found.evaluated_again else ""
    text += f"; {found.left_out}" if found.left_out else ""
    measured["differences"] = {name: asdict(each) for name, each in differences.items()}
    return GateResult("quality", difference.low, bound, difference.low >= bound, text), measured


def _not_evaluated(why: str, margin: float) -> Judgement:
    return GateResult("quality", None, -margin, False, why), {"error": why}


def _means(found: PerQuery) -> dict[str, float]:
    """Of the metrics that are a number for every query."""
    finite = {name: values for name, values in found.metrics.items() if np.isfinite(values).all()}
    return {name: float(values.mean(dtype=np.float64)) for name, values in finite.items() if len(values)}


def _intervals(found: PerQuery, clusters: Clusters, seed: int) -> dict[str, float]:
    """The ends of the 95 % intervals of the main means: `<metric>_low` and `<metric>_high`."""
    known = _means(found)
    ends: dict[str, float] = {}
    for name in WITH_INTERVAL:
        if name in known:
            each = interval(found.metrics[name], clusters, seed=seed)
            ends[f"{name}_low"], ends[f"{name}_high"] = each.low, each.high
    return ends


def _differences(
    own: PerQuery, other: PerQuery, metric: str, clusters: Clusters, seed: int
) -> dict[str, Interval]:
    """The paired difference of `metric` and of the main metrics."""
    return {
        name: interval(own.metrics[name], clusters, other.metrics[name], seed)
        for name in dict.fromkeys((metric, *WITH_INTERVAL))
        if name in _means(own) and name in _means(other)
    }


def _evaluate(version: ComparedVersion, data: TrainingData, threads: int, console: Console) -> PerQuery:
    manifest = version.manifest
    _check_features(version, data)
    data = data.as_read_by(manifest.schema.query)
    title = f"items by version {version.version}"
    model = served_model(version.folder, manifest, data.items, data.item_ids, threads, console, title)
    return per_query.measure(data, quality.ranked(data, model, console))


def _check_features(version: ComparedVersion, data: TrainingData) -> None:
    """Make sure that the data have every feature that the towers read.

    Raises:
        DataError: they lack some.
    """
    given: Mapping[str, Mapping[str, Any]] = {"query": data.queries, "item": data.items}
    read = {"query": version.manifest.schema.query, "item": version.manifest.schema.item}
    lacking = [f"{part}.{name}" for part in given for name in read[part] if name not in given[part]]
    if lacking:
        raise DataError(
            f"version {version.version} cannot be evaluated on the challenger's data: it reads "
            f"{', '.join(lacking)}, which they do not give"
        )


def _text(decision: Decision) -> str:
    measured = decision.measured.get("quality", {})
    if "means" not in measured:
        return plain(measured.get("error", "Not measured."))
    means, differences = measured["means"], measured.get("differences", {})
    manifest = decision.challenger.manifest.quality
    baselines = {name: label for name, label in LABELS.items() if f"{name}_ndcg_at_10" in manifest}
    rows = []
    for metric in dict.fromkeys((measured["metric"], *WITH_INTERVAL)):
        row = [f"**{metric_label(metric)}**" if metric == measured["metric"] else metric_label(metric)]
        row += [_with_interval(means[name], metric, measured["intervals"][name]) for name in means]
        if differences:
            each = differences.get(metric)
            row.append(f"{each['mean']:+.4f} ({each['low']:+.4f} to {each['high']:+.4f})" if each else "–")
        row += [_with_interval(manifest, f"{name}_{metric}", manifest) for name in baselines]
        rows.append(row)
    heads = ["metric", *means, *(["difference (95 %)"] if differences else []), *baselines.values()]
    text = f"Means over {measured['queries']:,} test queries, as served, with 95 % intervals: "
    text += f"{measured['drawn']} drawn."
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


def _draw(decision: Decision) -> Figure | None:
    """Each metric's mean paired difference with its interval; the metric that decides is on top, with the
    margin. None without a champion.
    """
    measured = decision.measured.get("quality", {})
    found = measured.get("differences")
    if not found or measured["metric"] not in found:
        return None
    deciding, margin = measured["metric"], measured["margin"]
    names = [deciding, *(name for name in found if name != deciding)]
    figure, axes = plt.subplots(figsize=(7.2, 1.3 + 0.42 * len(names)), layout="constrained")
    axes.axvspan(-margin, 0, color="#eef1f5", zorder=0)
    axes.axvline(0, color=QUIET_COLOUR, linewidth=1)
    axes.axvline(-margin, color=REFUSED_COLOUR, linestyle="--", linewidth=1)
    for place, name in enumerate(names):
        each = found[name]
        worse = name == deciding and each["low"] < -margin
        colour = REFUSED_COLOUR if worse else MODEL_COLOUR if name == deciding else QUIET_COLOUR
        axes.plot(
            [each["low"], each["high"]], [place, place], color=colour, linewidth=2.4 - 0.8 * (place > 0)
        )
        axes.plot(each["mean"], place, "o", color=colour, markersize=7 - 2 * (place > 0))
        text = f"{each['mean']:+.4f}".replace("-", "−")
        axes.annotate(
            text, (each["mean"], place), (0, 6), textcoords="offset points", fontsize=8, ha="center"
        )
    top = axes.get_xaxis_transform()
    axes.annotate(
        f"margin −{margin:g} ",
        (-margin, 0.02),
        xycoords=top,
        fontsize=8,
        color=REFUSED_COLOUR,
        ha="right",
    )
    axes.set_yticks(range(len(names)), [metric_label(name) for name in names])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.margins(x=0.12)
    axes.set(
        xlabel=f"challenger − champion: mean over queries, 95 % interval, {measured['drawn']} drawn",
        title=f"Quality on {measured['queries']:,} test queries; {metric_label(deciding)} decides",
    )
    style_axes(axes)
    axes.grid(visible=False)
    return figure


GATES = (
    Gate(
        name="quality",
        title="quality against the champion",
        order=30,
        judge=judge,
        shown=lambda figure: f"{figure:+.4f}",
        at_least=True,
        note="The figure of quality is the lower end of the 95 % interval of the paired difference.",
        section=Section(
            title="Quality",
            text=_text,
            plot="quality.png",
            plot_text="Paired difference of quality, with its interval and the margin",
            draw=_draw,
        ),
    ),
)
