"""One experiment, from its TOML to a finished run.

    python -m train fit --config train/configs/pydocs.toml

A run whose inputs have not changed is not trained again: its figures are read from MLflow.
"""

import contextlib
import dataclasses
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import mlflow
import torch
from mlflow.entities import Run
from rich.console import Console

from protos import names
from protos.errors import DataError, MissingStage
from train import plots
from train.baselines import baselines
from train.checkpoint import load_run, load_towers, save_towers
from train.config import Experiment, SequenceTower
from train.dataset import Dataset
from train.figures import cold_figures, figures, label_figures
from train.fingerprint import fingerprint, program
from train.heads import score_of
from train.loop import Interrupted, Trainer
from train.model import ARTIFACTS, DESCRIPTION, Model, shares_windows, start_model
from train.newcomers import fit_newcomers
from train.observer import BEST_TOWERS, RUN_STATE, RunObserver
from train.places import CACHE
from train.problem import Problem, problem_of
from train.tracking import find_run, flat, tracked

STAGE = "fit"


def fit(experiment: Experiment, dataset: Dataset, console: Console, resume: bool = False) -> tuple[Run, bool]:
    """The finished run of an experiment, and whether it had been there already.

    Args:
        resume: go on with the run that was interrupted last.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the run is marked as killed and can be resumed.
        MissingStage: there is nothing to resume.
    """
    print_ = _fingerprint(experiment, dataset)
    done = find_run(experiment.name, STAGE, print_)
    if done is not None:
        return done, True
    interrupted = _interrupted(experiment, print_)
    if resume and interrupted is None:
        raise MissingStage(f"{experiment.name}: no interrupted run to resume; train without --resume")
    if interrupted and not resume:
        console.print(f"run {interrupted} was interrupted; --resume goes on with it; starting anew")
    threads = experiment.training.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    run_id = ""
    try:
        with tracked(experiment.name, STAGE, print_, interrupted if resume else None) as run_id:
            try:
                with _working_in(run_folder(run_id)):
                    _run(run_id, experiment, dataset, console, resume)
            except Interrupted:
                raise KeyboardInterrupt from None
    except KeyboardInterrupt:
        if not run_id or not (run_folder(run_id) / RUN_STATE).is_file():  # it had not begun
            raise
        raise KeyboardInterrupt(f"stopped; --resume goes on with run {run_id}") from None
    return mlflow.get_run(run_id), False


def run_folder(run_id: str) -> Path:
    """Where a run keeps its checkpoints while it is under way.

    Raises:
        DataError: the tracking server's id of the run cannot be the name of a folder.
    """
    try:
        return CACHE / "runs" / names.run_id(run_id)
    except ValueError as error:
        raise DataError(f"run id: {error}") from None


def _fingerprint(experiment: Experiment, dataset: Dataset) -> str:
    """Everything that a run's result follows from; export, index and gates are not among it."""
    learned = dataclasses.asdict(experiment)
    for later in ("export", "precision", "index", "gates", "bench", "name"):
        del learned[later]
    return fingerprint(learned, dataset.report["fingerprint"], program(__name__))


def _interrupted(experiment: Experiment, print_: str) -> str | None:
    """The newest run that did not finish and left its state behind."""
    for status in ("KILLED", "FAILED", "RUNNING"):
        run = find_run(experiment.name, STAGE, print_, status)
        if run is None or not (run_folder(run.info.run_id) / RUN_STATE).is_file():
            continue
        if not _under_way(run_folder(run.info.run_id)):
            return str(run.info.run_id)
    return None


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Hold a run's folder, so that no other process takes its run for an interrupted one.

    The lock goes with the process, however that ends.

    Raises:
        MissingStage: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MissingStage(f"run {folder.name}: another process is training it") from None
        yield


def _under_way(folder: Path) -> bool:
    try:
        with _working_in(folder):
            return False
    except MissingStage:
        return True


def _run(run_id: str, experiment: Experiment, dataset: Dataset, console: Console, resume: bool) -> None:
    folder = run_folder(run_id)
    with console.status("hashing texts"):
        problem = problem_of(dataset, experiment.query, experiment.item)
        model, corpora = start_model(experiment, problem)
    trainer = Trainer(
        model.towers,
        problem,
        corpora,
        experiment.loss,
        experiment.training,
        shares_windows(experiment),
    )
    if resume:
        load_run(folder / RUN_STATE, trainer)
        console.print(f"going on with epoch {trainer.state.epoch + 1}, step {trainer.state.step}")
    else:
        _log_inputs(model, dataset)
    begun = time.perf_counter()
    with RunObserver(folder, console).watching() as observer:
        trainer.fit(observer)
    mlflow.log_metric("training_s", time.perf_counter() - begun)
    load_towers(folder / BEST_TOWERS, model.towers)
    trainer.forget_vectors()
    if isinstance(experiment.tower, SequenceTower):
        with console.status("placing new items by their content"):
            settings = experiment.tower.newcomers_alpha, experiment.tower.newcomers_strength
            fit_newcomers(model.towers[1], corpora[1], problem.counts(), *settings)
        save_towers(folder / BEST_TOWERS, model.towers)
    with console.status("test evaluation, and baselines beside it"):
        metrics = _test(experiment, problem, trainer)
    mlflow.log_metrics(metrics | {"best_epoch": trainer.state.best_epoch})
    _log_outputs(folder, trainer, metrics, experiment)
    (folder / RUN_STATE).unlink()
    (folder / BEST_TOWERS).unlink()


def _test(experiment: Experiment, problem: Problem, trainer: Trainer) -> dict[str, float]:
    """The figures of the chosen towers, by exact search, beside those of the baselines."""
    found = figures(problem, "test", trainer.rank, baselines(experiment, problem))
    found |= cold_figures(problem, trainer.rank)
    return found | label_figures(problem, "test", trainer.products, score_of(trainer.towers[0]))


def _log_inputs(model: Model, dataset: Dataset) -> None:
    mlflow.log_params(flat(dataclasses.asdict(model.experiment)))
    report = dataset.report
    mlflow.set_tags(
        {
            "dataset": f"{report['name']} {report['fingerprint'][:12]}",
            "dataset.fingerprint": report["fingerprint"],
            "split_hash": dataset.split_hash,
        }
    )
    mlflow.log_dict(report, "dataset.json")
    mlflow.log_metrics({"items": report["items"], "pairs": report["pairs"]})
    parameters = {p for tower in model.towers for p in tower.parameters()}
    mlflow.log_metric("parameters", sum(p.numel() for p in parameters))
    mlflow.log_text(model.description().decode(), f"{ARTIFACTS}/{DESCRIPTION}")


def _log_outputs(folder: Path, trainer: Trainer, metrics: dict[str, float], experiment: Experiment) -> None:
    mlflow.log_artifact(str(folder / BEST_TOWERS), ARTIFACTS)
    figures: dict[str, matplotlib.figure.Figure] = {
        "learning_curves.png": plots.learning_curves(
            trainer.state.history, trainer.state.losses, experiment.training.selection
        ),
        "beside_baselines.png": plots.beside_baselines(metrics, experiment.name),
    }
    for name, figure in figures.items():
        mlflow.log_artifact(str(plots.save(figure, folder / name)), "plots")
