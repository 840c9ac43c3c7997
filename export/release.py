"""From challenger to champion, behind gates, and on record either way.

    python -m export promote --config train/configs/pydocs.toml

A promotion measures first, which takes minutes, and then takes the lock for as long as the move itself. If
the champion or the challenger is another by then, the promotion is off: what was compared is not what would
be moved.
"""

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
from rich.console import Console

from export import gates, lock, trail
from export.gates import Decision, Gate, Side
from export.moves import Standing, actor, move, recorded
from export.registry import CHALLENGER, CHAMPION, answering, by_alias, fetch
from protos.errors import GateRefused, InvalidInput, MissingStage, TwinspireError, Unavailable
from train.config import Experiment
from train.problem import Problem

Compare = Callable[[Side, Side | None, Experiment, Callable[[], Problem], Console], Decision]
REPORT = "release"  # folder of the report among a run's artefacts


@dataclass(frozen=True)
class Promotion:
    """What came of a promotion.

    Args:
        version: that is champion now.
        record: of the move; None where the challenger was the champion already.
        decision: the gates; None where nothing had to be compared.
        run_id: the run that holds record and report.
    """

    version: str
    record: trail.Record | None = None
    decision: Decision | None = None
    run_id: str = ""


def promote(
    experiment: Experiment,
    problem: Callable[[], Problem],
    console: Console,
    force: bool = False,
    reason: str = "",
    compare: Compare = gates.compare,
) -> Promotion:
    """Make the challenger the champion, if all gates hold.

    Args:
        problem: gives the data, where something must be evaluated anew.
        force: do it even if gates do not hold; takes a reason.
        reason: why, for the record.
        compare: measures and decides.

    Raises:
        InvalidInput: forced without a reason.
        MissingStage: there is no challenger.
        GateRefused: gates do not hold: which, and by how much. The refusal is on record.
        Unavailable: another was faster, and who that was; or the registry does not answer.
    """
    name = experiment.name
    if force and not reason:
        raise InvalidInput("reason", "expected one, as the promotion is forced")
    with answering():
        compared = Standing.of(name)
        if compared.challenger is None:
            raise MissingStage(f"{name}: no version is {CHALLENGER}; `make register` makes one")
        if compared.champion == compared.challenger:
            return Promotion(compared.challenger)
        challenger, champion = _sides(name, compared, console, force)
        decision = compare(challenger, champion, experiment, problem, console)
        with recorded(name, f"version {compared.challenger}") as run_id:
            _report(decision, run_id)
            with lock.held(name, actor()) as held:
                error, record = _conclude(name, held, run_id, compared, decision, force, reason)
    if error is not None:
        raise error
    return Promotion(compared.challenger, record, decision, run_id)


def _sides(name: str, standing: Standing, console: Console, force: bool) -> tuple[Side, Side | None]:
    """Both bundles on this disk. A champion that cannot be had any more stands in no forced one's way."""
    assert standing.challenger is not None
    with console.status("fetching both bundles"):
        challenger = Side(standing.challenger, *fetch(name, standing.challenger))
        if not standing.champion:
            return challenger, None
        try:
            return challenger, Side(standing.champion, *fetch(name, standing.champion))
        except TwinspireError as error:
            if not force:
                raise
            console.print(f"{error}; going on without it", style="yellow", highlight=False, markup=False)
            return challenger, None


def _report(decision: Decision, run_id: str) -> None:
    """The gates' figures and the report, to the run."""
    client = mlflow.MlflowClient()
    with tempfile.TemporaryDirectory() as folder:
        gates.write_report(decision, Path(folder))
        client.log_artifacts(run_id, folder, REPORT)
    for gate in decision.gates:
        for name, value in ((f"gate_{gate.name}", gate.figure), (f"gate_{gate.name}_bound", gate.bound)):
            if value is not None and math.isfinite(value):
                client.log_metric(run_id, name, value)


def _conclude(
    name: str,
    held: lock.Lock,
    run_id: str,
    compared: Standing,
    decision: Decision,
    force: bool,
    reason: str,
) -> tuple[TwinspireError | None, trail.Record]:
    """With the lock held: the move or the refusal, on record, and what to tell who asked."""
    assert compared.challenger is not None
    now = Standing.of(name)
    summary = [_summary(gate) for gate in decision.gates]
    error: TwinspireError | None = None
    action: trail.Action = "promote"
    if now != compared:
        action, reason = "refuse", _what_changed(name, compared, now)
        error = Unavailable(f"{name}: version {compared.challenger} is not promoted: {reason}; try again")
    elif force and (not decision.accepted or _compared_with_none(compared, decision)):
        action = "force"
    elif not decision.accepted:
        action = "refuse"
        error = GateRefused(_refusal(name, compared.challenger, decision.refused, run_id))
    record = move(name, held, run_id, action, now.champion, compared.challenger, summary, reason)
    return error, record


def _compared_with_none(compared: Standing, decision: Decision) -> bool:
    return bool(compared.champion) and decision.champion is None


def _summary(gate: Gate) -> dict[str, Any]:
    return {"name": gate.name, "figure": gate.figure, "bound": gate.bound, "holds": gate.holds}


def _refusal(name: str, version: str, refused: tuple[Gate, ...], run_id: str) -> str:
    told = "; ".join(
        f"{gate.name} {_told(gate.figure)}, bound {gate.bound:g}: {gate.text}" for gate in refused
    )
    return f"{name}: version {version} is not promoted: {told} (report: run {run_id}, {REPORT}/decision.md)"


def _told(figure: float | None) -> str:
    return "has no figure" if figure is None else f"{figure:g}"


def _what_changed(name: str, compared: Standing, now: Standing) -> str:
    """Who moved what, and when, while somebody else compared."""
    if now.champion != compared.champion:
        known = trail.read(name)
        moves = zip(known.entries, known.moved(now.champion), strict=True)
        last = [entry.record for entry, moved in moves if moved][-1:]
        if last and last[0].after == now.champion:
            by = f"by {last[0].actor} at {last[0].at}"
        else:
            by = "beside the trail"
        return f"version {now.champion or 'none'} was made {CHAMPION} {by} meanwhile"
    challenger = by_alias(name, CHALLENGER)
    if challenger is None:
        return f"the alias {CHALLENGER} was taken away meanwhile"
    made = datetime.fromtimestamp(challenger.creation_timestamp / 1000, UTC)
    return f"version {challenger.version}, of {made:%Y-%m-%dT%H:%M:%S}Z, became {CHALLENGER} meanwhile"
