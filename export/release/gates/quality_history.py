"""Gate `quality_history`: not worse by more than the margin than the best of the last ten champions.

The gate `quality` allows each challenger a small loss, and small losses add up. So the mean paired difference
of each champion to the one before, which the record of its promotion holds, is summed from champion to
champion. Each difference is of two bundles on the same queries, so the sum needs no split that all champions
share. On one split, and on the same queries, it is the difference of the means.

The figure is the mean, not an end of its interval: it bounds the measured loss of all promotions
together. The best of several champions is partly the luckiest, so an interval would refuse equal bundles.

The metric is the one that `quality` has compared by. Of log loss lower is better, so a sum above 0 is a loss.

A sum ends at a promotion whose record holds no difference by the metric, as those of older programs, and at a
forced one: a person has accepted that loss. The text says where it ends.
"""

from itertools import pairwise
from typing import Any

from twinspire.export.evaluation.pair_losses import LOG_LOSS
from twinspire.export.release import audit_log
from twinspire.export.release.audit_log import AuditLog, ReleaseRecord
from twinspire.export.release.gate import Comparison, Gate, GateResult, Judgement
from twinspire.export.release.gates.quality import bound_of, metric_of
from twinspire.export.release.paired_metrics import judges_labels
from twinspire.train.metrics import LOWER_IS_BETTER, as_higher_is_better, metric_label
from twinspire.train.training.tracking import mlflow_errors

NAME = "quality_history"
CHAMPIONS = 10  # the last ones, among them the one now


def judge(comparison: Comparison) -> Judgement | None:
    """The result, and the differences of the challenger to the champions before.

    None if the challenger was not compared with the champion.

    Raises:
        Unavailable: the registry does not answer.
    """
    champion, change = comparison.champion, comparison.quality_change
    is_judged = judges_labels(comparison.experiment) and (change is None or LOG_LOSS in change)
    metric = LOG_LOSS if is_judged else metric_of(comparison.experiment)
    bound, is_lower_better = bound_of(metric, comparison.gates), metric in LOWER_IS_BETTER

    def result(figure: float | None, holds: bool, text: str) -> GateResult:
        return GateResult(
            NAME, figure, bound, holds, text, change=change or {}, lower_is_better=is_lower_better
        )

    if champion is None:
        return result(None, True, "there is no champion to compare it with"), {}
    if change is None or metric not in change:
        return None
    with mlflow_errors():
        log = audit_log.read(comparison.experiment.name)
    earlier, end = differences(log, champion.version, metric)
    levels = {version: change[metric] + level for version, level in earlier.items()}
    measured: dict[str, Any] = {"metric": metric, "differences": levels, "end": end}
    if not levels:
        text = f"no champion before version {champion.version} to compare with{end}"
        return result(None, True, text), measured
    best = min(levels, key=lambda version: as_higher_is_better(metric, levels[version]))
    figure = levels[best]
    holds = figure <= bound if is_lower_better else figure >= bound
    text = (
        f"{metric_label(metric)} {figure:+.4f} against version {best}, the best of {len(levels)} champions "
        f"before version {champion.version}: {change[metric]:+.4f} against version {champion.version}, which "
        f"has {earlier[best]:+.4f} against version {best}, as measured at each promotion"
    )
    text += f"{', lower is better' if is_lower_better else ''}{end}"
    if not holds:
        text += "; train a better one, or promote it with --force and a reason, which ends the sum"
    return result(figure, holds, text), measured


def differences(log: AuditLog, champion: str, metric: str) -> tuple[dict[str, float], str]:
    """How much the champion differs from each of the last champions before it, as measured.

    Args:
        champion: the version that is champion now.

    Returns:
        version -> sum of the differences since, newest first; and why the sum ends before the first champion,
        empty if it does not.
    """
    promoted = {
        (entry.record.after, entry.record.before): entry.record
        for entry, moved in zip(log.entries, log.moved(champion), strict=True)
        if moved and entry.record.action in ("promote", "force")
    }
    versions = audit_log.promoted_versions(log, champion)[::-1][:CHAMPIONS]
    found: dict[str, float] = {}
    level = 0.0
    for version, before in pairwise(versions):
        record = promoted.get((version, before))
        if record is not None and record.action == "force":
            return found, f"; version {version} was promoted by force, and none before it is compared"
        change = None if record is None else _change(record, metric)
        if change is None:
            what = f"no {metric_label(metric)} of version {version} against version {before}"
            return found, f"; the records hold {what}, and none before version {version} is compared"
        level += change
        if before != champion:  # it may have been champion before
            found.setdefault(before, level)
    return found, ""


def _change(record: ReleaseRecord, metric: str) -> float | None:
    """The recorded difference of a champion to the one before; None if there is none."""
    for gate in record.gates:
        change = gate.get("change")
        value = change.get(metric) if gate.get("name") == NAME and isinstance(change, dict) else None
        if isinstance(value, float | int):
            return float(value)
    return None


GATES = (
    Gate(
        name=NAME,
        title="quality against the last ten champions",
        order=35,
        judge=judge,
        shown=lambda figure: f"{figure:+.4f}",
        at_least=True,
    ),
)
