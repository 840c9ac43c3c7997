"""Gate `quality`: not worse than the champion by more than a margin, in a paired comparison of queries.

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
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.console import Console

from twinspire.export.bundles import why_not_comparable
from twinspire.export.evaluation import pair_losses, per_query, quality
from twinspire.export.evaluation.pair_losses import PairLosses
from twinspire.export.evaluation.per_query import PerQuery
from twinspire.export.release.gate import (
    ComparedVersion,
    Comparison,
    Decision,
    Gate,
    GateResult,
    Judgement,
    Section,
)
from twinspire.export.release.paired_losses import (
    LOG_LOSS,
    PairedLosses,
    paired,
    stored_losses,
    why_without_losses,
)
from twinspire.export.served_model import served_model
from twinspire.protos import bundle
from twinspire.protos.errors import DataError, TwinspireError
from twinspire.train.config import Experiment, GatesConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.baselines import LABELS
from twinspire.train.evaluation.intervals import Clusters, Interval, interval
from twinspire.train.evaluation.ranking import selection_metric
from twinspire.train.evaluation.warnings import own_impressions
from twinspire.train.markdown import plain, table
from twinspire.train.metrics import (
    DRAWN,
    DRAWN_PAIRS,
    LOWER_IS_BETTER,
    OF_LABELS,
    WITH_INTERVAL,
    as_higher_is_better,
    metric_label,
)


@dataclass(frozen=True)
class Evaluated:
    """The metrics of the same queries by one or both bundles.

    Args:
        challenger, champion: of each bundle.
        evaluated_again: why they were evaluated again; empty if the bundles hold them.
        left_out: which queries are left out, in words; empty if none is.
        doubt: why the queries favour the champion; empty if they do not.
        losses: of labelled pairs, where the experiment is judged by them.
    """

    challenger: PerQuery
    champion: PerQuery | None
    evaluated_again: str
    left_out: str = ""
    doubt: str = ""
    losses: PairedLosses = field(default_factory=PairedLosses)

    @property
    def clusters(self) -> Clusters:
        """Of the queries."""
        return self.challenger.clusters


def metric_of(experiment: Experiment) -> str:
    """The metric of single queries that decides, unless log loss does."""
    asked = experiment.gates.quality_metric
    return selection_metric(experiment) if asked == "selection" else asked


def judges_labels(experiment: Experiment) -> bool:
    """Whether the log loss of labelled pairs decides, if both bundles have it."""
    return experiment.gates.quality_metric == "selection" and experiment.training.selection in OF_LABELS


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
        found = stored(comparison.challenger, comparison.champion)
        if not isinstance(found, str) and judges_labels(comparison.experiment):
            sides = comparison.challenger, comparison.champion
            losses = stored_losses(*sides, has_same_towers(*sides))
            found = losses if isinstance(losses, str) else replace(found, losses=losses)
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


def _shared(comparison: Comparison) -> list[str]:
    """The metrics in which a refreshed bundle that was not measured counts as equal to the champion."""
    with_losses = judges_labels(comparison.experiment) and not why_without_losses(comparison.challenger)
    return [metric_of(comparison.experiment), *([LOG_LOSS] if with_losses else [])]


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
    if challenger.manifest.quality.get(quality.SEARCHED) != before.quality.get(quality.SEARCHED):
        return "one bundle was measured through a graph, the other by exact search"
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
    """Both bundles evaluated on the challenger's data.

    Args:
        why: the reason, for the report.

    Raises:
        TwinspireError: a bundle cannot be evaluated on these data.
    """
    data, versions = comparison.data(), tuple(comparison.versions.values())
    found = [_evaluate(each, data, comparison.console) for each in versions]
    own, other = found[0], found[1] if len(found) > 1 else (None, None)
    losses = PairedLosses()
    if judges_labels(comparison.experiment):
        losses = paired(own[1], other[1], versions)
    return Evaluated(own[0], other[0], why, doubt=own_impressions(data), losses=losses)


def judge_metrics(found: Evaluated, experiment: Experiment) -> Judgement:
    """The result, and the metrics with their differences."""
    gates, losses = experiment.gates, found.losses
    metric = metric_of(experiment) if losses.challenger is None else LOG_LOSS
    is_lower_better, label = metric in LOWER_IS_BETTER, metric_label(metric)
    measured = _measured(found, metric, gates)
    means, lacking = measured["means"], f"; {losses.lacking}, so {label} decides" if losses.lacking else ""

    def result(figure: float | None, holds: bool, text: str, warning: str = "") -> GateResult:
        bound, text = bound_of(metric, gates), text + lacking
        return GateResult("quality", figure, bound, holds, text, warning, lower_is_better=is_lower_better)

    own = means["challenger"].get(metric)
    if own is None:
        each = "pair" if metric == LOG_LOSS else "query"
        return result(None, False, f"the challenger's {label} is not a number for every {each}"), measured
    shown = f"{label} {own:.4f}"
    if found.champion is None:  # the bound is one of a difference
        return result(None, True, f"{shown}; there is no champion to compare it with"), measured
    if metric not in means["champion"]:
        text = f"{shown}; the champion has no {label} to compare it with"
        return result(None, False, text), measured
    differences = _differences(found, metric, gates.seed)
    measured["differences"] = {name: asdict(each) for name, each in differences.items()}
    difference, champion = differences[metric], means["champion"][metric]
    clusters, over = found.clusters, f"{measured['queries']:,} queries"
    if metric == LOG_LOSS:
        clusters, over = losses.clusters, f"{measured['pairs']:,} pairs, lower is better"
    text = f"{shown} against {champion:.4f}: {difference.text(clusters)} over {over}"
    again = measured["evaluated_anew"]
    text += f"; both evaluated again, because {again}" if again else ""
    text += "".join(f"; {each}" for each in (found.left_out, found.doubt) if each)
    figure = difference.high if is_lower_better else difference.low
    holds = figure <= bound_of(metric, gates) if is_lower_better else figure >= bound_of(metric, gates)
    return result(figure, holds, text, _wide_margin(metric, champion, found, gates)), measured


def _measured(found: Evaluated, metric: str, gates: GatesConfig) -> dict[str, Any]:
    """All but the differences.

    Args:
        metric: that decides.
    """
    sides, clusters, losses = _sides(found), found.clusters, found.losses
    measured: dict[str, Any] = {
        "metric": metric,
        "margin": _margin_of(metric, gates),
        "queries": len(found.challenger.queries),
        DRAWN: str(clusters),
        "evaluated_anew": found.evaluated_again,
        "left_out": found.left_out,
        "means": {name: _means(each) for name, each in sides.items()},
        "intervals": {name: _intervals(each, clusters, gates.seed) for name, each in sides.items()},
    }
    if losses.challenger is not None:
        measured |= {"pairs": len(losses.challenger.pairs), DRAWN_PAIRS: str(losses.clusters)}
        for name, each in losses.intervals(gates.seed).items():
            measured["means"][name][LOG_LOSS] = each.mean
            measured["intervals"][name] |= each.named(LOG_LOSS)
    return measured


def _wide_margin(metric: str, champion: float, found: Evaluated, gates: GatesConfig) -> str:
    """A warning where the margin is so wide that the gate refuses next to nothing; empty elsewhere.

    Args:
        champion: its figure.
    """
    margin, label = _margin_of(metric, gates), metric_label(metric)
    if metric == LOG_LOSS:
        own, key = found.losses.champions_lead(), "log_loss_margin"
        if own <= 0:  # no margin helps
            lost = f"the champion's {label} is {-own:.4f} above that of the base rate"
            return f"{lost}, so the gate on quality says little"
        what = f"the champion's {label} is {own:.4f} below that of the base rate"
    else:
        own, key = champion, "quality_margin"
        what = f"the champion's {label} is {own:.4f}"
    if own >= 2 * margin:
        return ""
    return f"{what}, less than two margins of {margin:g}, so the gate on quality says little; lower {key}"


def _without_figure(text: str, experiment: Experiment, holds: bool) -> Judgement:
    metric = LOG_LOSS if judges_labels(experiment) else metric_of(experiment)
    bound, is_lower_better = bound_of(metric, experiment.gates), metric in LOWER_IS_BETTER
    result = GateResult("quality", None, bound, holds, text, lower_is_better=is_lower_better)
    return result, {"error": text}


def _sides(found: Evaluated) -> dict[str, PerQuery]:
    bare = {"challenger": found.challenger}
    return bare if found.champion is None else {**bare, "champion": found.champion}


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


def _differences(found: Evaluated, metric: str, seed: int) -> dict[str, Interval]:
    """The paired difference of `metric`, which both have, and of the main metrics."""
    own, other = found.challenger, found.champion
    assert other is not None
    first = {LOG_LOSS: found.losses.difference(seed)} if metric == LOG_LOSS else {}
    return first | {
        name: interval(own.metrics[name], found.clusters, other.metrics[name], seed)
        for name in dict.fromkeys((metric, *WITH_INTERVAL))
        if name in _means(own) and name in _means(other)
    }


def _evaluate(
    version: ComparedVersion, data: TrainingData, console: Console
) -> tuple[PerQuery, PairLosses | None]:
    manifest = version.manifest
    _check_features(version, data)
    read = data.as_read_by(manifest.schema.query)
    title = f"items by version {version.version}"
    model = served_model(version.folder, manifest, data.items, data.item_ids, console, title)
    # Digests are of the data of both, so that a query has the same one for towers that read no times.
    products = quality.inner_products(read, model, console)
    losses = pair_losses.measure(data, products, manifest.score)
    return per_query.measure(data, quality.ranked(read, model, console)), losses


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
)
