"""Terminal output of `python -m twinspire.train fit`; other commands reuse parts of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from twinspire.protos.cli import show_warnings
from twinspire.protos.figures import DIFFERENCE, JUDGED
from twinspire.train.evaluation.baselines import LABELS
from twinspire.train.evaluation.intervals import Interval
from twinspire.train.evaluation.query_groups import GROUPS
from twinspire.train.metrics import MAIN_AND_RECALL, SHOWN, SHOWN_OF_HISTORIES, metric_label

MAX_COLUMNS = 6  # of rankings in a table
BY_GROUP = "ndcg_at_10"  # the metric that is shown of groups of queries
GROUPS_TEXT = (
    "seen: a training query has the same words; head: the most frequent training queries, which make half of "
    "its events; tail: all others; traffic: each query counts as often as it has test events"
)
OF_HISTORIES = "coverage_at_10"  # is measured only where queries have histories
OF_PROBABILITIES = ("auc", "log_loss", "ece")  # what is asked of towers that predict a probability


def show_fit(result: dict[str, Any], console: Console) -> None:
    """The test metrics of model and baselines, intervals, what was chosen for these, and the warnings."""
    again = ", unchanged since it was trained" if result["reused"] else ""
    console.print(f"run {result['run_id']}{again}", highlight=False)
    metrics = result["metrics"]
    names = {"": "two-tower", **baseline_columns(metrics)}
    rows = metric_rows(metrics)
    show_labels(metrics, console, is_first=True)
    console.print(metric_table("test, exact search", metrics, names))
    for drawn, group in (("drawn_pairs", probability_rows(metrics)), ("drawn", rows)):
        if intervals := ", ".join(filter(None, (_interval(metrics, name) for name in group))):
            text = f"two-tower, 95 % intervals, {result[drawn]} drawn: {intervals}"
            console.print(text, highlight=False, soft_wrap=True)
    differences = ((name, _difference(metrics, name)) for name in rows)
    if shown := ", ".join(f"{metric_label(name)} {lead}" for name, lead in differences if lead):
        text = f"difference to the best baseline, 95 % intervals, {result['drawn']} drawn: {shown}"
        console.print(text, highlight=False, soft_wrap=True)
    for name, label in LABELS.items():
        prefix = f"{name}."
        chosen = [
            f"{k.removeprefix(prefix)} {v}" for k, v in result["baselines"].items() if k.startswith(prefix)
        ]
        if chosen:
            console.print(f"{label}: {', '.join(chosen)}", highlight=False, soft_wrap=True)
    show_query_groups(metrics, names, result["drawn"], console)
    show_cold_start(metrics, console)
    show_labels(metrics, console, is_first=False)
    show_judged(metrics, {"": "two-tower"}, console)
    show_warnings(result["warnings"], console)


def metric_table(title: str, metrics: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    """A column for each ranking; a row for each where they are too many for a terminal of 80 characters.

    Args:
        names: prefix -> label of each ranking.
    """
    rows = metric_rows(metrics)
    values = {prefix: [f"{metrics[prefix + name]:.4f}" for name in rows] for prefix in names}
    if len(names) <= MAX_COLUMNS:
        table = Table(title, *names.values(), box=None)
        for name, row in zip(rows, zip(*values.values(), strict=True), strict=True):
            table.add_row(metric_label(name), *row)
        return table
    table = Table(title, *(metric_label(name).replace("@", "\n@") for name in rows), box=None)
    for prefix, label in names.items():
        table.add_row(label, *values[prefix])
    return table


def show_query_groups(
    metrics: Mapping[str, Any], names: Mapping[str, str], drawn: str, console: Console
) -> None:
    """nDCG@10 of known and new, frequent and rare queries, and weighted by traffic, where queries repeat.

    Args:
        names: prefix -> label of each ranking.
        drawn: what the intervals of the test part draw.
    """
    groups = [name for name in GROUPS if f"{name}_queries" in metrics]
    if not groups:
        return
    label = metric_label(BY_GROUP)
    table = Table(f"{label}, test", "all", *groups, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("queries", *(f"{int(metrics[name]):,}" for name in ("queries", *_each(groups, "queries"))))
    for prefix, ranking in names.items():
        if f"{prefix}{groups[0]}_{BY_GROUP}" in metrics:
            values = (metrics[prefix + name] for name in (BY_GROUP, *_each(groups, BY_GROUP)))
            table.add_row(ranking, *(f"{value:.4f}" for value in values))
    console.print(table)
    leads = [(group, _difference(metrics, f"{group}_{BY_GROUP}")) for group in groups]
    if shown := ", ".join(f"{group} {lead}" for group, lead in leads if lead):
        text = f"{label}, difference to the best baseline, 95 % intervals, {drawn} drawn: {shown}"
        console.print(text, highlight=False, soft_wrap=True)
    console.print(GROUPS_TEXT, highlight=False, soft_wrap=True)


def _each(groups: Sequence[str], metric: str) -> list[str]:
    return [f"{group}_{metric}" for group in groups]


def show_judged(metrics: Mapping[str, Any], own: Mapping[str, str], console: Console) -> None:
    """A row for each ranking of the judged queries, with the 95 % intervals below, if there are any queries.

    Args:
        own: prefix -> label of each ranking of the model; the baselines are shown beside them.
    """
    if f"{JUDGED}queries" not in metrics:
        return
    measured = {name.removeprefix(JUDGED) for name in metrics if name.startswith(JUDGED)}
    names = {**own, **baseline_columns(dict.fromkeys(measured))}
    title = f"judged, {int(metrics[f'{JUDGED}queries']):,} queries"
    table = Table(title, *map(metric_label, MAIN_AND_RECALL), box=None)
    for prefix, label in names.items():
        table.add_row(
            label, *(_with_interval(metrics, f"{JUDGED}{prefix}{name}") for name in MAIN_AND_RECALL)
        )
    console.print(table)


def _with_interval(metrics: Mapping[str, Any], name: str) -> str:
    """A metric, and the ends of its interval on a line below."""
    low, high = (f"{metrics[f'{name}_{end}']:.3f}".removeprefix("0") for end in ("low", "high"))
    return f"{metrics[name]:.4f}\n{low} to {high}"


def metric_rows(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics that a table shows, in order; of histories recall@20, too."""
    return [*(SHOWN_OF_HISTORIES if OF_HISTORIES in metrics else SHOWN)]


def probability_rows(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics of labels with which a report of towers that predict a probability begins."""
    return [name for name in OF_PROBABILITIES if "log_loss" in metrics and name in metrics]


def _interval(metrics: Mapping[str, Any], name: str) -> str:
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f"{metric_label(name)} {low:.4f} to {high:.4f}"


def _difference(metrics: Mapping[str, Any], name: str) -> str:
    """A metric of the towers less that of the best baseline; the untrained start is none."""
    columns = baseline_columns(metrics)
    others = {prefix: label for prefix, label in columns.items() if f"{prefix}{DIFFERENCE}{name}" in metrics}
    if not others:
        return ""
    best = max(others, key=lambda prefix: metrics[prefix + name])
    difference = f"{best}{DIFFERENCE}{name}"
    low, high = (metrics[f"{difference}_{end}"] for end in ("low", "high"))
    found = Interval(metrics[difference], low, high)
    chance = "" if found.is_better or found.is_worse else ": no difference beyond chance"
    return f"{metrics[difference]:+.4f} ({low:+.4f} to {high:+.4f}, {others[best]}{chance})"


def baseline_columns(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Prefix -> label of each baseline that was measured."""
    return {f"{name}_": label for name, label in LABELS.items() if f"{name}_ndcg_at_10" in metrics}


def show_cold_start(metrics: Mapping[str, Any], console: Console) -> None:
    """The metrics of new users and of new items, as far as they were measured."""
    for name, label in (("cold_users", "without a history"), ("cold_items", "of items new to it")):
        if f"{name}_queries" in metrics:
            console.print(
                f"{int(metrics[f'{name}_queries']):,} queries {label}: "
                f"HR@10 {metrics[f'{name}_hr_at_10']:.4f}, nDCG@10 {metrics[f'{name}_ndcg_at_10']:.4f}",
                highlight=False,
                soft_wrap=True,
            )
    if "cold_queries" in metrics:
        by_ranking = ", ".join(
            f"{label} {metrics[f'cold_{name}hr_at_50']:.4f}"
            for name, label in (
                ("", "by content"),
                ("popularity_", "by popularity"),
                ("random_", "at random"),
            )
        )
        console.print(f"items kept out of training, HR@50: {by_ranking}", highlight=False, soft_wrap=True)


def show_labels(metrics: Mapping[str, Any], console: Console, is_first: bool) -> None:
    """AUC, log loss and calibration error of model and baselines on labelled pairs, as far as measured.

    Beside a baseline stands by how much the model is better, with the ends of the 95 % interval.

    Args:
        is_first: whether the rankings follow. Nothing is shown if the table belongs at the other place: it is
            first where the towers predict a probability, because their rankings then say little.
    """
    if "auc" not in metrics or is_first != bool(probability_rows(metrics)):
        return
    table = Table("labelled pairs", "AUC", "log loss", "ECE", "AUC gain", "log loss gain", box=None)
    names = {"": "two-tower", **LABELS}
    for name, label in names.items():
        prefix = f"{name}_" if name else ""
        if f"{prefix}auc" not in metrics:
            continue
        keys = [f"{prefix}{each}" for each in ("auc", "log_loss", "ece")]
        values = [f"{metrics[key]:.4f}" if key in metrics else "" for key in keys]
        gains = [_gain(metrics, f"{prefix}{each}_gain") for each in ("auc", "log_loss")] if name else ["", ""]
        table.add_row(label, *values, *gains)
    console.print(table)


def _gain(metrics: Mapping[str, Any], name: str) -> str:
    if name not in metrics:
        return ""
    low, high = (metrics.get(f"{name}_{end}") for end in ("low", "high"))
    interval = "" if low is None or high is None else f" ({low:+.4f} to {high:+.4f})"
    return f"{metrics[name]:+.4f}{interval}"
