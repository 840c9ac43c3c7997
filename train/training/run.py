"""One experiment, from its TOML to a finished run.

    python -m twinspire.train fit --config train/configs/pydocs.toml

A run whose inputs have not changed is not trained again: its metrics are read from MLflow.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Run
from rich.console import Console
from rich.markup import escape

from twinspire.protos import names
from twinspire.protos.cli import show_warnings
from twinspire.protos.errors import ConfigError, DataError, MissingStage, Unavailable
from twinspire.protos.features import Schema
from twinspire.protos.figures import JUDGED
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.mlflow_keys import PRETRAINED_MODEL
from twinspire.train.config import Experiment
from twinspire.train.data.contents import contents
from twinspire.train.data.dataset import Dataset
from twinspire.train.data.training_data import TrainingData, training_data_of
from twinspire.train.evaluation.baselines import baselines, left_out
from twinspire.train.evaluation.intervals import Interval, clusters_of, drawn_in
from twinspire.train.evaluation.quality_page import PAGE, quality_page
from twinspire.train.evaluation.ranking import BaselineFitter, FittedBaseline, Ranker, selection_metric
from twinspire.train.evaluation.report import (
    evaluate_cold_items,
    evaluate_judged,
    evaluate_ranking,
    known,
)
from twinspire.train.evaluation.warnings import run_warnings, worse_than_baselines
from twinspire.train.fingerprint import code_fingerprint, fingerprint
from twinspire.train.interrupts import before_leaving
from twinspire.train.models.defaults import Chosen, from_data
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import Report, architecture_of, silent
from twinspire.train.paths import CACHE
from twinspire.train.training.blending import add_as_chosen, add_recent_popularity, mix
from twinspire.train.training.callbacks import RunCallbacks
from twinspire.train.training.checkpoint import (
    BEST_TOWERS,
    RUN_STATE,
    START_TOWERS,
    load_run,
    load_towers,
    save_towers,
    start_alike,
)
from twinspire.train.training.labelled_pairs import LabelledPairs
from twinspire.train.training.part_weights import ChosenPart
from twinspire.train.training.process import TrainingProcess, memory_advice, start_process
from twinspire.train.training.refit import REFIT, refit
from twinspire.train.training.run_metrics import log_all, select_compared
from twinspire.train.training.tracking import (
    FINGERPRINT,
    START,
    find_run,
    flattened,
    log_choices,
    log_warnings,
    stored_choices,
    tracked_run,
    unfinished_runs,
)
from twinspire.train.training.trained_model import (
    ARTIFACTS,
    DESCRIPTION,
    Model,
    load_model,
    model_and_trainer,
    settings_without_passwords,
)
from twinspire.train.training.trainer import Callbacks, Interrupted, State, Trainer
from twinspire.train.training.validated import baselines_on_validation

STAGE = "fit"
FINISHED = "finished"  # folder of the towers with new items, calibration and mixture, in that of a run
# Sections that training does not read.
LATER_STAGES = ("export", "precision", "index", "hybrid", "gates", "retrain")


def fit(
    experiment: Experiment,
    dataset: Dataset,
    console: Console,
    resume: bool | None = False,
    to_resume: str = "python -m twinspire.train fit --resume",
    process: TrainingProcess | None = None,
    start: Run | None = None,
) -> tuple[Run, bool]:
    """Train and evaluate an experiment.

    Args:
        resume: continue the run that was interrupted last; None continues one if there is one, and refuses
            to train beside a process that still trains the same.
        to_resume: the command that does so, for the texts that say how to go on.
        process: this one, alone or as rank 0 of several, whose number is not a part of the run's key; the
            others call `follow`. If None, it is set up to train alone.
        start: a run with whose towers the new ones begin; see `trained_model.py`.

    Returns:
        The finished run, and whether it is one of before, whose inputs were the same.

    Raises:
        KeyboardInterrupt: SIGINT asked to stop; the run is marked as killed and can be resumed.
        Terminated: the same by SIGTERM.
        MissingStage: there is nothing to resume, or another process still trains the run.
        ConfigError: this machine lacks the device.
        Unavailable: there is too little memory.
    """
    start_id = "" if start is None else start.info.run_id
    key = _fingerprint(experiment, dataset, start_id)
    training = experiment.training
    process = process or start_process(training.threads, training.device)
    finished = find_run(experiment.name, STAGE, key)
    if finished is not None:
        process.from_rank_0("")
        return finished, True
    interrupted = _interrupted(experiment, key, refuse_running=resume is None)
    resume = interrupted is not None if resume is None else resume
    if resume and interrupted is None:
        raise MissingStage(f"{experiment.name}: no interrupted run to resume; train without --resume")
    if interrupted and not resume:
        console.print(f"run {interrupted} was interrupted; `{to_resume}` goes on with it; starting anew")
    process.from_rank_0(key)
    console.print(f"device: {process.device} ({process.device_name})", highlight=False)
    run_id = ""
    try:
        with (
            tracked_run(
                experiment.name, STAGE, key, interrupted if resume else None, experiment.tower.kind
            ) as run_id,
            _locked(run_folder(run_id)),
            before_leaving(partial(_how_to_go_on, run_id, to_resume)),
            process.failing_once(),
        ):
            # Not parameters: a resumed run may have others.
            device = {"device": str(process.device), "device.name": process.device_name}
            mlflow.set_tags({"ranks": process.count, **device})
            if start_id:
                mlflow.set_tag(START, start_id)
            trained = None if start is None else load_model(start)
            _train(run_folder(run_id), process, experiment, dataset, console, resume, trained)
    except (RuntimeError, MemoryError) as error:
        advice = memory_advice(error, process)
        if advice is None:
            raise
        raise Unavailable(advice) from error
    except KeyboardInterrupt as interruption:
        text = _how_to_go_on(run_id, to_resume) if run_id else None
        if text is None:
            raise
        raise type(interruption)(text) from None
    process.wait()
    return mlflow.get_run(run_id), False


def follow(experiment: Experiment, dataset: Dataset, process: TrainingProcess) -> None:
    """What the ranks other than 0 do while rank 0 calls `fit`: they train with it, and return when it ends.

    Raises:
        DataError: settings, data or code are not those of rank 0.
    """
    key = process.from_rank_0(None)
    if not key:  # there is nothing to train
        return
    if key != _fingerprint(experiment, dataset):
        raise DataError(f"rank {process.rank}: settings, data or code are not those of rank 0")
    data = training_data_of(dataset, experiment.query, experiment.item)
    experiment = from_data(experiment, data).experiment
    data = data.as_read_by(experiment.query)
    _, trainer, _ = model_and_trainer(experiment, data, process)
    with contextlib.suppress(Interrupted):
        start_alike(trainer)
        trainer.fit(Callbacks())
        if experiment.training.refit:
            _, again, _ = model_and_trainer(experiment, data.with_validation(), process)
            start_alike(again)
            again.refit(Callbacks(), trainer.state.best_epoch)
        process.wait()


def _how_to_go_on(run_id: str, to_resume: str) -> str | None:
    """What to tell after an interruption; None if nothing was saved."""
    saved = (run_folder(run_id) / RUN_STATE).is_file()
    return f"stopped; `{to_resume}` goes on with run {run_id}" if saved else None


def finished_run(experiment: Experiment, dataset: Dataset) -> Run | None:
    """The newest finished run of the same settings, data and code; `fit` returns it instead of training.

    Raises:
        DataError: a file that a feature reads, such as a tokenizer's, cannot be read.
    """
    return find_run(experiment.name, STAGE, _fingerprint(experiment, dataset))


def choices_of(
    run: Run, experiment: Experiment, dataset: Dataset, report: Report = silent
) -> Mapping[str, Any]:
    """What a run has chosen for its baselines, as `BaselineFitter(stored=...)` takes it.

    It is empty unless the run has the same settings, data and code, on which choices depend. It is also empty
    if a file that training reads, such as a pretrained model, is missing: the run's key covers its content.

    Args:
        report: receives a line if the run has choices and they are not returned.
    """
    stored, change = stored_choices(run), "settings, data or code have changed since"
    try:
        key = _fingerprint(experiment, dataset, run.data.tags.get(START, "")) if stored else ""
        is_same = bool(stored) and run.data.tags.get(FINGERPRINT) == key
    except (ConfigError, DataError) as error:
        is_same, change = False, str(error)
    if stored and not is_same:
        report(f"what run {run.info.run_id} has chosen for its baselines is not used: {change}")
    return stored if is_same else {}


def run_folder(run_id: str) -> Path:
    """The folder of a run's checkpoints while it is under way.

    Raises:
        DataError: the run's id, which the tracking server chose, cannot be the name of a folder.
    """
    try:
        return CACHE / "runs" / names.run_id(run_id)
    except ValueError as error:
        raise DataError(f"run id: {error}") from None


def _fingerprint(experiment: Experiment, dataset: Dataset, start_id: str = "") -> str:
    """The key of a run: everything that its result depends on.

    Raises:
        DataError: a file that a feature reads, such as a tokenizer's, cannot be read.
    """
    settings = dataclasses.asdict(experiment)
    for name in (*LATER_STAGES, "name"):
        del settings[name]
    settings["tower"].pop("model", None)  # a path; the identity below stands for its content
    del settings["training"]["device"]  # results differ by rounding, and a run goes on with another
    identity = architecture_of(experiment.tower).identity()
    schema = Schema(experiment.query, experiment.item).in_folder(experiment.tower.features_folder)
    try:
        contents = {name: (schema.folder / name).read_bytes() for name in schema.files()}
    except OSError as error:
        raise DataError(f"{error.filename}: a feature reads this file: {error.strerror}") from None
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    key = fingerprint(
        *(identity,) if identity else (),
        settings,
        files,
        dataset.report["fingerprint"],
        code_fingerprint(__name__),
    )
    return fingerprint(key, start_id) if start_id else key


def _interrupted(experiment: Experiment, key: str, refuse_running: bool) -> str | None:
    """The id of the newest run that did not finish and left its state behind.

    Raises:
        MissingStage: another process still trains a run with this key, and `refuse_running` is set.
    """
    for run in unfinished_runs(experiment.name, STAGE, key):
        folder = run_folder(run.info.run_id)
        if not folder.is_dir():
            continue
        try:
            with _locked(folder):
                if (folder / RUN_STATE).is_file():
                    return str(run.info.run_id)
        except MissingStage:
            if refuse_running:
                raise
    return None


def _locked(folder: Path) -> contextlib.AbstractContextManager[object]:
    """Lock a run's folder, so that no other process takes its run for an interrupted one.

    Raises:
        MissingStage: another process holds the lock.
    """
    return exclusive_lock(
        folder / ".lock", MissingStage(f"run {folder.name}: another process is training it")
    )


def _train(
    folder: Path,
    process: TrainingProcess,
    experiment: Experiment,
    dataset: Dataset,
    console: Console,
    resume: bool,
    start: Model | None = None,
) -> None:
    """Train within the active MLflow run, evaluate the towers, and log the results."""
    # Before the data are in memory for training, because this takes about as much.
    described = [] if resume else contents(dataset, experiment)
    with console.status("hashing texts"):
        data = training_data_of(dataset, experiment.query, experiment.item)
        chosen = from_data(experiment, data)
        experiment = chosen.experiment
        data = data.as_read_by(experiment.query)
        architecture = architecture_of(experiment.tower)
        for line in filter(None, (architecture.describe(), *chosen.lines())):
            _print(console, line)
        show_warnings(left_out(experiment, data), console)
        report = partial(_print, console)
        model, trainer, no_linear_model = model_and_trainer(experiment, data, process, start, report)
    show_warnings(filter(None, (no_linear_model,)), console)
    if resume:
        load_run(folder / RUN_STATE, trainer)
        console.print(f"going on with epoch {trainer.state.epoch + 1}, step {trainer.state.step}")
    else:
        _log_inputs(model, dataset, described, chosen)
        if architecture.ranks_untrained:
            save_towers(folder / START_TOWERS, trainer.towers)
    with RunCallbacks(folder, console).watching() as callbacks:
        with callbacks.repeatable():
            start_alike(trainer)
        trainer.fit(callbacks)
    trainer.process = process.alone()
    _finish(folder, model, trainer, console, process)


def _finish(folder: Path, model: Model, trainer: Trainer, console: Console, process: TrainingProcess) -> None:
    """Evaluate the towers of the best epoch, log metrics and artifacts, and delete the checkpoints.

    With `[training] refit`, other towers take their place before test is read.
    """
    data, experiment = trainer.data, model.experiment
    judged = _judged_ranker(model, trainer)
    metrics, start = _start_metrics(folder, trainer, judged)
    load_towers(folder / BEST_TOWERS, trainer.towers)
    trainer.clear_cached_vectors()
    with console.status("placing what training has not seen, such as new items"):
        architecture = architecture_of(experiment.tower)
        changed = architecture.fit_unseen(trainer.towers, trainer.items, data.counts())
    labelled, state = LabelledPairs(trainer), trainer.state
    validated, rankers = _choose_on_validation(experiment, trainer, labelled, console)
    if experiment.training.refit:
        rankers = {}  # their item-item weights are freed for those of the refit
        model, trainer = refit(folder, model, trainer, console, process)
        changed, data, labelled = True, trainer.data, LabelledPairs(trainer)
        fitter = BaselineFitter(experiment, data, choices=validated.choices)
        with console.status("a linear model and recent popularity beside the new towers"):
            add_as_chosen(trainer, fitter, validated.added.values())
        rankers = baselines(experiment, data, console, fitter)
        judged = _judged_ranker(model, trainer)
        _log_description(model)  # there may be more ids
    stored = folder / BEST_TOWERS
    if changed or validated.calibrated or validated.added:
        # The towers of the best epoch stay: a run that is interrupted from here on begins with them again.
        stored = folder / FINISHED / BEST_TOWERS
        stored.parent.mkdir(exist_ok=True)
        save_towers(stored, trainer.towers)
    with console.status("test evaluation, baselines beside it"):
        metrics |= _on_test(experiment, trainer, rankers)
        metrics |= labelled.metrics(experiment)
        on_judged = _on_judged(experiment, data, judged, rankers, start, validated.choices, console)
    log_choices(validated.choices)  # after the judged queries, which may add some
    settings = {name: dict(each.settings) for name, each in rankers.items()} | labelled.settings
    chosen = flattened({"baselines": settings}) | flattened({"calibration": validated.calibrated})
    mlflow.log_params(chosen | flattened({"evaluation": drawn_in(data, "test")}))
    best, beside, selection = state.best_epoch, validated.beside, experiment.training.selection
    on_validation = {f"{name}_{selection}": value for name, value in beside.items()}
    for name, part in validated.added.items():
        mlflow.log_params(flattened({name: part.parameters()}))
        on_validation |= part.metrics()
    _log_metrics(folder.name, state, on_validation, metrics, on_judged)
    losses = {epoch: record["loss"] for epoch, record in enumerate(state.history) if "loss" in record}
    doubts = worse_than_baselines(validated.leads, beside, selection, clusters_of(data, "validation"))
    log_warnings([*run_warnings(experiment, data, metrics, best, losses), *doubts])
    mlflow.log_artifact(str(stored), ARTIFACTS)
    if labelled.reliability:
        from twinspire.train import plots  # matplotlib's import takes a third of a second

        diagram = plots.reliability_diagram(labelled.reliability, experiment.name)
        mlflow.log_artifact(str(plots.save(diagram, folder / "reliability.png")), "plots")
    for name in (RUN_STATE, BEST_TOWERS, START_TOWERS, f"{FINISHED}/{BEST_TOWERS}", f"{REFIT}/{RUN_STATE}"):
        (folder / name).unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Validated:
    """What validation has chosen for the towers of the best epoch, and how they do there.

    Args:
        calibrated: what the calibration of predicted probabilities has chosen; empty if there is none.
        choices: of the linear model and the baselines, by name.
        added: by name what stands beside the towers, if they have coordinates for it: the linear model,
            `mixture`, and `recent_popularity`.
        beside: the metric that selects the epoch, of each baseline.
        leads: that of the towers less that of each baseline; empty if it is one of labels.
    """

    calibrated: dict[str, Any]
    choices: dict[str, Any]
    added: dict[str, ChosenPart]
    beside: dict[str, float]
    leads: dict[str, Interval]


def _choose_on_validation(
    experiment: Experiment, trainer: Trainer, labelled: LabelledPairs, console: Console
) -> tuple[_Validated, dict[str, FittedBaseline]]:
    """Calibrate predicted probabilities, add other models to the towers (`blending.py`), and
    fit the baselines.

    Validation chooses for all of them.

    Returns:
        What it has chosen, and the baselines.
    """
    with console.status("calibration"):
        calibrated = labelled.calibrate()
    fitter, added = BaselineFitter(experiment, trainer.data), dict[str, ChosenPart]()
    with console.status("a linear model beside the towers") as status:
        fitter.say = lambda text: status.update(f"a linear model beside the towers: {escape(text)}")
        mixed = mix(trainer, fitter)
    if mixed is not None:
        added["mixture"] = mixed
        _print(console, mixed.line())
    with console.status("recent popularity beside the towers"):
        recent = add_recent_popularity(trainer, selection_metric(experiment))
    if recent is not None:
        added["recent_popularity"] = recent
        _print(console, recent.line())
    rankers = baselines(experiment, trainer.data, console, fitter)
    with console.status("towers and baselines on validation"):
        beside, leads = baselines_on_validation(experiment, trainer, rankers, labelled)
    return _Validated(calibrated, fitter.choices, added, beside, leads), rankers


def _judged_ranker(model: Model, trainer: Trainer) -> Ranker:
    """Ranks the served items for judged queries, by the towers as they are when it is called."""
    items: PreparedInputs | None = None
    if trainer.data.serves_other_texts:
        architecture = architecture_of(model.experiment.tower, place=trainer.process.place)
        items = architecture.prepare(model.schema, "item", trainer.data.as_served().items)
    return lambda queries: trainer.rank(queries, items)


def _on_judged(
    experiment: Experiment,
    data: TrainingData,
    rank: Ranker,
    rankers: Mapping[str, FittedBaseline],
    start: Mapping[str, Ranker],
    choices: dict[str, Any],
    console: Console,
) -> dict[str, float]:
    """Metrics of the current towers, of their start, and of the baselines, without their prefix.

    Args:
        rank: as of `_judged_ranker`.
        rankers: the baselines over the values of the items in training and evaluation.
        start: as of `_start_metrics`.
        choices: made for the baselines, by name; others are added.
    """
    if data.judged is None:
        return {}
    served = data.as_served()
    if served is not data:
        fitter = BaselineFitter(experiment, served, choices=choices)
        rankers = baselines(experiment, served, console, fitter)
    found = evaluate_judged(served, rank, {**rankers, **start})
    return {name.removeprefix(JUDGED): value for name, value in found.items()}


def _start_metrics(
    folder: Path, trainer: Trainer, judged: Ranker
) -> tuple[dict[str, float], dict[str, Ranker]]:
    """The towers before the first step, `start`: metrics on the test part, and answers to the judged queries.

    Both are empty if those towers do not rank.
    """
    if not (folder / START_TOWERS).is_file():
        return {}, {}
    load_towers(folder / START_TOWERS, trainer.towers)
    trainer.clear_cached_vectors()
    found = evaluate_ranking(trainer.data, "test", trainer.rank)
    named = {f"start_{name}": value for name, value in found.items() if name != "queries"}
    queries = trainer.data.judged
    return named, {} if queries is None else {"start": known(judged(queries.query))}


def _on_test(
    experiment: Experiment, trainer: Trainer, rankers: Mapping[str, FittedBaseline]
) -> dict[str, float]:
    """Metrics of towers and baselines on the test part; logs a page that shows on what they differ."""
    queries, _ = trainer.data.parts["test"].by_query()
    own = trainer.rank(queries)
    # The rankings of all baselines are in memory at once; row numbers fit into 32 bits.
    others = {name: rank(queries).astype(np.int32) for name, rank in rankers.items()}
    page = quality_page(trainer.data, {"": own, **others}, experiment.name, "towers")
    mlflow.log_text(page, PAGE)
    beside = {name: known(answers) for name, answers in others.items()}
    found = evaluate_ranking(trainer.data, "test", known(own), beside)
    return found | evaluate_cold_items(trainer.data, trainer.rank)


def _log_metrics(
    run_id: str,
    state: State,
    on_validation: Mapping[str, float],
    metrics: Mapping[str, float],
    on_judged: Mapping[str, float],
) -> None:
    """Log what runs are compared by as metrics, and everything in files.

    Args:
        run_id: of the active run.
        on_validation: what was measured there of baselines and of additions to the towers.
        metrics: of the test part.
        on_judged: of the judged queries.
    """
    times = {"training_s": state.seconds, "best_epoch": float(state.best_epoch)}
    shown = select_compared("test", metrics) | select_compared("judged", on_judged)
    mlflow.log_metrics(shown | select_compared("train", times))
    kept = state.history[state.best_epoch]
    of_kept = {name.removeprefix("validation_"): value for name, value in kept.items()}
    # One step after the last epoch, so that the UI shows the kept epoch as the figure of the run.
    mlflow.log_metrics(select_compared("validation", {**of_kept, **on_validation}), len(state.history))
    named = {f"validation_{name}": value for name, value in on_validation.items()}
    named |= {f"{JUDGED}{name}": value for name, value in on_judged.items()}
    log_all(run_id, {**metrics, **kept, **named})


def _log_inputs(model: Model, dataset: Dataset, described: Sequence[str], chosen: Chosen) -> None:
    mlflow.log_params(flattened(settings_without_passwords(model.experiment)))
    report = dataset.report
    mlflow.set_tags(
        {
            "dataset": f"{report['name']} {report['fingerprint'][:12]}",
            "dataset.fingerprint": report["fingerprint"],
            "split_hash": dataset.split_hash,
        }
    )
    mlflow.log_dict(report, "dataset.json")
    mlflow.log_text("\n".join(described), "data.txt")
    mlflow.log_dict({**chosen.reasons}, "chosen_from_data.json")
    mlflow.log_input(dataset.for_mlflow(), "training")
    parameters = {p for tower in model.towers for p in tower.parameters()}
    sizes = {"items": report["items"], "pairs": report["pairs"]}
    sizes["parameters"] = sum(p.numel() for p in parameters)
    mlflow.log_metrics(select_compared("data", sizes))
    _log_description(model)
    architecture = architecture_of(model.experiment.tower)
    for name in sorted({*model.schema.files(), *architecture.files()}):
        mlflow.log_artifact(str(model.schema.folder / name), str(Path(ARTIFACTS, name).parent))
    if architecture.describe():
        mlflow.set_tag(PRETRAINED_MODEL, architecture.describe())


def _log_description(model: Model) -> None:
    mlflow.log_text(model.description().decode(), f"{ARTIFACTS}/{DESCRIPTION}")


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
