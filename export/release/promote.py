"""Makes the challenger the champion, behind gates, with a record of each decision.

    python -m twinspire.export promote --config train/configs/pydocs.toml

A promotion measures first, which takes minutes. If champion or challenger have changed by then, it refuses:
the comparison was of other versions.
"""

import math
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion

from twinspire.export.release import audit_log
from twinspire.export.release.audit_log import Action, ReleaseRecord
from twinspire.export.release.decision_report import PAGE, write_report
from twinspire.export.release.gate import ComparedVersion, Comparison, Decision, Gate, GateResult
from twinspire.export.release.gates import GATES
from twinspire.export.release.registry import (
    CHALLENGER,
    CHAMPION,
    AliasState,
    by_alias,
    expect_collection,
    fetch,
    retire_challenger,
)
from twinspire.export.served_traffic.served_answers import ServedFiles
from twinspire.protos.cli import UsageError
from twinspire.protos.errors import GateRefused, InvalidInput, MissingStage, TwinspireError, Unavailable
from twinspire.train.config import Experiment
from twinspire.train.data.dataset import Dataset, prepare
from twinspire.train.data.training_data import TrainingData, data_of_kept_towers
from twinspire.train.progress import PROGRESS
from twinspire.train.training.run_metrics import select_compared
from twinspire.train.training.tracking import log_metrics, mlflow_errors

Compare = Callable[
    [ComparedVersion, ComparedVersion | None, Experiment, Callable[[], TrainingData]], Decision
]
REPORT = "release"  # folder of the report among a run's artefacts


def compare_versions(
    challenger: ComparedVersion,
    champion: ComparedVersion | None,
    experiment: Experiment,
    data: Callable[[], TrainingData],
    gates: Mapping[str, Gate] = GATES,
    answers: ServedFiles | None = None,
) -> Decision:
    """Measure both bundles, and judge the challenger by every gate.

    Args:
        champion: None if no version is served yet; gates that compare with it then hold.
        experiment: its `[gates]` hold the bounds.
        data: gives the challenger's data; called only if a bundle must be evaluated again.
        answers: served log and events, where they are given.

    Raises:
        Unavailable: MLflow does not answer.
    """
    request: dict[str, Any] = {}
    for gate in gates.values():
        request |= gate.request(experiment)
    results: list[GateResult] = []
    measured: dict[str, Any] = {"not_measured": []}
    with tempfile.TemporaryDirectory(prefix="twinspire-gates-") as scratch:
        comparison = Comparison(challenger, champion, experiment, data, Path(scratch), request, answers)
        for gate in gates.values():
            judged = gate.judge(comparison)
            if judged is None:
                measured["not_measured"].append(gate.name)
                continue
            results.append(judged[0])
            measured.setdefault(gate.key, {}).update(judged[1])
    return Decision(challenger, champion, tuple(results), measured | comparison.conditions)


def command(experiment: Experiment, arguments: Namespace) -> dict[str, Any]:
    """The command `promote`: make the challenger the champion, if all gates hold."""
    read = partial(prepare, experiment, arguments.config.parent, console=PROGRESS)
    compare: Compare = partial(compare_versions, answers=served_files(arguments))
    return promote(experiment, read, arguments.force, arguments.reason, compare)


def served_files(arguments: Namespace) -> ServedFiles | None:
    """The served log and events that the arguments name; None if they name none.

    Raises:
        UsageError: one of them is missing.
    """
    log, events = arguments.served_log, arguments.events
    if (log is None) != (events is None):
        raise UsageError("--served-log and --events go together")
    return None if log is None else ServedFiles(log, events, tuple(arguments.types))


def promote(
    experiment: Experiment,
    read: Callable[[], Dataset],
    force: bool = False,
    reason: str = "",
    compare: Compare = compare_versions,
    expected: str = "",
) -> dict[str, Any]:
    """Make the challenger the champion if all gates hold.

    Args:
        read: reads the data set; called only if a bundle must be evaluated again.
        force: promote even if gates do not hold; requires a reason.
        reason: for the record.
        compare: measures both bundles and decides.
        expected: the version that must be the challenger; by default any.

    Returns:
        A document with `model`, the champion now, and its `alias`; the record of the `move`, None if the
        challenger was the champion already; the `decision`, None if nothing had to be compared; and the
        `run_id` of the run that holds record and report.

    Raises:
        InvalidInput: forced without a reason.
        ConfigError: the challenger's index is in a vector database, and the environment names none.
        MissingStage: there is no challenger, or its collection on that server is missing.
        GateRefused: gates do not hold; the text names them with their figures. The refusal is recorded.
        Unavailable: the aliases were moved in between, or the registry does not answer.
    """
    if force and not reason:
        raise InvalidInput("reason", "expected one, as the promotion is forced")
    name = experiment.name
    with mlflow_errors():
        compared = AliasState.of(name)
        # The version to promote is the champion already; so it is if no version waits.
        if compared.champion and (expected or compared.challenger) in (None, compared.champion):
            retire_challenger(name, compared.champion)  # a process that died may have left it
            return _document(name, compared.champion)
        if compared.challenger is None:
            raise MissingStage(f"{name}: no version is {CHALLENGER}; `make register` makes one")
        if expected and compared.challenger != expected:
            what = f"version {compared.challenger} became {CHALLENGER} before version {expected} was compared"
            raise Unavailable(f"{name}: {what}; try again")
        expect_collection(name, compared.challenger)  # before minutes of measuring
        challenger, champion = _versions(name, compared.challenger, compared.champion, force)
        data = partial(challenger_data, experiment, challenger, read)
        decision = compare(challenger, champion, experiment, data)
        with audit_log.release_run(name, f"version {compared.challenger}") as run_id:
            _log_report(decision, run_id)
            record = _conclude(name, run_id, compared, decision, force, reason)
    return _document(name, compared.challenger, asdict(record), decision.document(), run_id)


def _document(
    name: str, version: str, move: Any = None, decision: Any = None, run_id: str = ""
) -> dict[str, Any]:
    model = f"models:/{name}/{version}"
    return {"model": model, "alias": CHAMPION, "move": move, "decision": decision, "run_id": run_id}


def challenger_data(
    experiment: Experiment, challenger: ComparedVersion, read: Callable[[], Dataset]
) -> TrainingData:
    """The data that the challenger is evaluated on.

    Raises:
        MissingStage: the split has changed, so the test split may contain data that it was trained on.
    """
    dataset, split_hash = read(), challenger.manifest.split_hash
    if split_hash != dataset.split_hash:
        raise MissingStage(
            f"{experiment.name}: version {challenger.version} was made on another split of the data "
            f"({split_hash[:12] or 'unknown'}, now {dataset.split_hash[:12]}), so it cannot be evaluated; "
            "train, export and register again"
        )
    return data_of_kept_towers(dataset, experiment)


def _versions(
    name: str, challenger: str, champion: str, force: bool
) -> tuple[ComparedVersion, ComparedVersion | None]:
    """Download both bundles. If the promotion is forced, the champion's may be unavailable."""
    with PROGRESS.status("fetching both bundles"):
        candidate = ComparedVersion(challenger, *fetch(name, challenger))
        if not champion:
            return candidate, None
        try:
            return candidate, ComparedVersion(champion, *fetch(name, champion))
        except TwinspireError as error:
            if not force:
                raise
            PROGRESS.print(f"{error}; going on without it", style="yellow")
            return candidate, None


def _log_report(decision: Decision, run_id: str) -> None:
    """Log the gates' figures and the report to the run."""
    with tempfile.TemporaryDirectory() as folder:
        write_report(decision, Path(folder))
        mlflow.MlflowClient().log_artifacts(run_id, folder, REPORT)
    figures: dict[str, float | None] = {}
    for result in decision.results:
        figures |= {result.name: result.figure, f"{result.name}_bound": result.bound}
    known = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
    log_metrics(run_id, select_compared("gates", known))


def _conclude(
    name: str,
    run_id: str,
    compared: AliasState,
    decision: Decision,
    force: bool,
    reason: str,
) -> ReleaseRecord:
    """Promote or refuse, and record it; a refusal raises what `promote` does."""
    challenger = compared.challenger
    assert challenger is not None
    error: TwinspireError | None = None
    action: Action = "promote"
    waiting = by_alias(name, CHALLENGER)
    if waiting is None or str(waiting.version) != challenger:
        action, reason = "refuse", _new_challenger(waiting)
        error = Unavailable(f"{name}: version {challenger} is not promoted: {reason}; try again")
    elif force and (not decision.accepted or (compared.champion and decision.champion is None)):
        action = "force"
    elif not decision.accepted:
        action = "refuse"
        error = GateRefused(_refusal(name, challenger, decision.refused, run_id))
    results = [summary(each) for each in decision.results]
    doubts = decision.challenger.doubts
    record = audit_log.commit(name, run_id, action, compared.champion, challenger, results, reason, doubts)
    if error is not None:
        raise error
    return record


def summary(result: GateResult) -> dict[str, object]:
    """A result for the record, with title, figure and bound for people."""
    gate = GATES[result.name]
    shown = {
        "title": gate.title,
        "shown_figure": gate.shown_figure(result.figure),
        "shown_bound": gate.shown_bound(result.bound, result.lower_is_better),
    }
    warning = {"warning": result.warning} if result.warning else {}
    change = {"change": dict(result.change)} if result.change else {}
    figures = {"figure": result.figure, "bound": result.bound, "holds": result.holds}
    return {"name": result.name, **figures, **shown, **warning, **change}


def _refusal(name: str, version: str, refused: tuple[GateResult, ...], run_id: str) -> str:
    results = "; ".join(
        f"{each.name} {_figure(each.figure)}, bound {each.bound:g}: {each.text}" for each in refused
    )
    return f"{name}: version {version} is not promoted: {results} (report: run {run_id}, {REPORT}/{PAGE})"


def _figure(figure: float | None) -> str:
    return "has no figure" if figure is None else f"{figure:g}"


def _new_challenger(challenger: ModelVersion | None) -> str:
    """Which version became challenger while the gates were measured."""
    if challenger is None:
        return f"the alias {CHALLENGER} was removed meanwhile"
    made = datetime.fromtimestamp(challenger.creation_timestamp / 1000, UTC)
    return f"version {challenger.version}, of {made:%Y-%m-%dT%H:%M:%S}Z, became {CHALLENGER} meanwhile"
