"""MLflow tracking: its store, and the runs of every stage.

The store is SQLite under `mlruns/` unless `MLFLOW_TRACKING_URI` names another; all stages behave the same
with either.
"""

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import sqlalchemy
from mlflow.entities import Metric, Run, RunStatus, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES

from twinspire.protos.documents import parse_json
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.protos.mlflow_keys import ABSENT, STAGE
from twinspire.protos.toml_config import to_table
from twinspire.train.interrupts import before_leaving
from twinspire.train.metrics import DRAWN, DRAWN_PAIRS
from twinspire.train.paths import IS_CHECKOUT, MLRUNS, ROOT

FINGERPRINT = "twinspire.fingerprint"
START = "twinspire.start"  # tag of a run: the id of the run with whose towers it began
DESCRIPTION = "mlflow.note.content"  # tag of a run or an experiment; the UI shows it as Markdown
EXPERIMENT_KIND = "mlflow.experimentKind"  # tag of an experiment: which of its views the UI opens
WARNINGS = "twinspire.warnings"  # tag of a run: a JSON list of sentences
CHOICES = "twinspire.choices"  # tag of a run: JSON, what validation has chosen for its baselines
MODEL_TRAINING = "custom_model_development"  # its value for training runs; the UI's default is for agents
SQLITE = "sqlite:///"
METRICS_A_CALL = 1000  # limit of MLflow
MAX_RUNS = 1000  # of one key and status that are looked at
RUN_ID_SHOWN = 4  # characters of a run's id in its name


def connect(folder: Path = MLRUNS) -> str:
    """Point MLflow at its store; an SQLite file that is missing is created first.

    Returns:
        The tracking URI.

    Raises:
        Unavailable: the store cannot be created, or the URI of the store or of the registry cannot be used.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # stdout belongs to results
    # Stages show progress of their own.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{folder / 'mlflow.db'}"
    refuse_unusable_uri("MLFLOW_TRACKING_URI", uri)
    refuse_unusable_uri("MLFLOW_REGISTRY_URI", os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    database = _database(uri)
    if database is not None:
        _create_store(database)
    mlflow.set_tracking_uri(uri)
    return uri


def refuse_unusable_uri(variable: str, uri: str) -> None:
    """Refuse a URI of which MLflow would raise errors of other libraries; nothing connects.

    Args:
        variable: that sets it, for the error.

    Raises:
        Unavailable: it is no URI, or the driver of its database is missing or for asyncio.
    """
    try:
        kind = urlsplit(uri).scheme.partition("+")[0]
        if kind in DATABASE_ENGINES and sqlalchemy.create_engine(uri).dialect.is_async:
            raise ValueError(f"expected a URI that begins with {kind}://, as this driver is for asyncio")
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, TypeError) as error:
        account = uri.rpartition("@")[0].partition("://")[2] + "@"  # with a password
        shown, reason = (text.replace(account, "") for text in (uri, str(error)))
        raise Unavailable(f"{variable}: {shown}: cannot be used: {reason}") from None


def _database(uri: str) -> Path | None:
    """The SQLite file that a tracking URI names; None for any other store."""
    name = uri.removeprefix(SQLITE).partition("?")[0]
    if not uri.startswith(SQLITE) or not name or name.startswith((":memory:", "file:")):
        return None
    return Path(name)


def _create_store(database: Path) -> None:
    """Create an SQLite store that is missing or empty.

    MLflow creates its tables one by one in the file, and fails if another process does the same. So one
    process at a time creates the file under another name and renames it.

    Raises:
        Unavailable: the folder cannot be written.
    """
    if _exists(database):
        return
    folder = database.parent
    try:
        with exclusive_lock(folder / f".{database.name}.lock"):
            if _exists(database):
                return
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=folder.absolute()) as draft:
                created = Path(draft) / "mlflow.db"
                store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]
                    f"{SQLITE}{created}", (folder.absolute() / "artifacts").as_uri()
                )
                store.engine.dispose()
                created.rename(database)
    except OSError as error:
        raise Unavailable(f"{database}: the store cannot be made: {error.strerror or error}") from None


def _exists(database: Path) -> bool:
    return database.exists() and (not database.is_file() or database.stat().st_size > 0)


def experiment_id(name: str) -> str:
    """The id of the MLflow experiment of that name, which is created if there is none."""
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    database = _database(mlflow.get_tracking_uri())
    artifacts = None if database is None else (database.absolute().parent / "artifacts" / name).as_uri()
    tags = {EXPERIMENT_KIND: MODEL_TRAINING, DESCRIPTION: _description(name)}
    try:
        return str(mlflow.create_experiment(name, artifacts, tags))
    except MlflowException:  # another process created it
        found = mlflow.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def _description(name: str) -> str:
    return (
        f"The retrieval model `{name}`. The tag `{STAGE}` says what a run is:\n\n"
        "- `fit`: training, with the metrics of each epoch, of the test part and of the exported bundle\n"
        "- `bench`: latency of a bundle\n"
        "- `release`: a decision about the champion, with a report of all gates (`release/decision.html`)\n"
        "- `refresh`: a bundle of the champion's towers and newer items\n"
        "- `retrain`: towers trained on newer data, which of them went on, and why"
    )


def find_run(experiment: str, stage: str, fingerprint: str = "", status: str = "FINISHED") -> Run | None:
    """The newest run of a stage, with this fingerprint if one is given."""
    return next(iter(_runs(experiment, stage, fingerprint, status, 1)), None)


def unfinished_runs(experiment: str, stage: str, fingerprint: str) -> list[Run]:
    """All runs of a stage with this fingerprint that have begun and not finished, newest first."""
    statuses = ("KILLED", "FAILED", "RUNNING")
    found = [run for each in statuses for run in _runs(experiment, stage, fingerprint, each)]
    return sorted(found, key=lambda run: run.info.start_time, reverse=True)


def _runs(experiment: str, stage: str, fingerprint: str, status: str, most: int = MAX_RUNS) -> list[Run]:
    """The newest runs of a stage and status, newest first."""
    found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        return []
    terms = [f"tags.`{STAGE}` = '{stage}'", f"attributes.status = '{status}'"]
    if fingerprint:
        terms.append(f"tags.`{FINGERPRINT}` = '{fingerprint}'")
    return mlflow.search_runs(
        [found.experiment_id],
        " and ".join(terms),
        ViewType.ACTIVE_ONLY,
        max_results=most,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )


def finished_count(experiment: str, stage: str) -> int:
    """The number of finished runs of a stage."""
    return len(_runs(experiment, stage, "", "FINISHED", sys.maxsize))


def get_run(run_id: str) -> Run:
    """The run with this id.

    Raises:
        MissingStage: the tracking server has none.
    """
    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if is_absent(error):
            raise MissingStage(f"run {run_id}: not known to {mlflow.get_tracking_uri()}") from None
        raise unreachable(error) from None


def is_absent(error: MlflowException) -> bool:
    """Whether MLflow answered that there is no such entity; any other error leaves that open."""
    return error.error_code in ABSENT


def unreachable(error: MlflowException) -> Unavailable:
    """The error to raise when MLflow cannot answer."""
    return Unavailable(f"{mlflow.get_tracking_uri()}: MLflow does not answer: {error.message}")


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Raise errors of MLflow as `Unavailable`."""
    try:
        yield
    except MlflowException as error:
        raise unreachable(error) from None
    except RecursionError:
        raise Unavailable(f"{mlflow.get_tracking_uri()}: MLflow answers with JSON nested too deep") from None


@contextmanager
def tracked_run(
    experiment: str, stage: str, fingerprint: str, resume: str | None = None, title: str = ""
) -> Iterator[str]:
    """An active MLflow run; it ends as finished, as failed, or as killed after an interrupt.

    Args:
        title: what runs, `stage` by default. A new run is named by experiment, title and the start of its
            id: `pydocs-bag-3f2a`.

    Yields:
        The run's id.
    """
    mlflow.set_system_metrics_sampling_interval(5)  # type: ignore[no-untyped-call]
    active = mlflow.start_run(
        run_id=resume,
        experiment_id=None if resume else experiment_id(experiment),
        tags={STAGE: stage, FINGERPRINT: fingerprint, **environment()},
        log_system_metrics=True,
    )
    status = RunStatus.FAILED
    try:
        killed = active.info.run_id, RunStatus.to_string(RunStatus.KILLED)
        with before_leaving(lambda: mlflow.MlflowClient().set_terminated(*killed)):
            if not resume:
                name = f"{experiment}-{title or stage}-{active.info.run_id[:RUN_ID_SHOWN]}"
                mlflow.MlflowClient().update_run(active.info.run_id, name=name)
            yield active.info.run_id
        status = RunStatus.FINISHED
    except KeyboardInterrupt:
        status = RunStatus.KILLED
        raise
    finally:
        mlflow.end_run(RunStatus.to_string(status))


def log_warnings(warnings: Sequence[str]) -> None:
    """Keep warnings with the active run, and show them in its description."""
    mlflow.set_tag(WARNINGS, json.dumps(warnings))
    if warnings:
        mlflow.set_tag(DESCRIPTION, "\n".join(["**Warnings**", "", *(f"- {each}" for each in warnings)]))


def warnings_of(run: Run) -> list[str]:
    """The warnings of a run; none of a run that was trained before runs had warnings."""
    return [str(each) for each in json.loads(run.data.tags.get(WARNINGS, "[]"))]


def log_choices(choices: Mapping[str, Any]) -> None:
    """Store what validation has chosen for baselines and the linear model, as a tag of the active run.

    Args:
        choices: name -> value, as `BaselineFitter.choose` describes them.
    """
    mlflow.set_tag(CHOICES, json.dumps(to_table(choices)))


def stored_choices(run: Run) -> Mapping[str, Any]:
    """What `log_choices` has kept with a run, as JSON; empty if its tag is missing or cannot be read.

    The values are not checked; `BaselineFitter.choose` does that.
    """
    try:
        found = parse_json(run.data.tags.get(CHOICES, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def drawn_of(run: Run) -> dict[str, str]:
    """What the intervals of the test part draw, as of `drawn_in`; both kinds in any run."""
    params = run.data.params
    drawn = params.get(f"evaluation.{DRAWN}", "single queries")
    return {DRAWN: drawn, DRAWN_PAIRS: params.get(f"evaluation.{DRAWN_PAIRS}", drawn)}


def chosen_settings(run: Run) -> dict[str, str]:
    """What a run chose for its baselines, such as `bm25.k1`."""
    prefix = "baselines."
    params = run.data.params.items()
    return {
        name.removeprefix(prefix): value
        for name, value in params
        if name.count(".") > 1 and name.startswith(prefix)
    }


def environment() -> dict[str, str]:
    """Tags that describe the code and the machine."""
    return {
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "command": " ".join(sys.argv),
    }


def git_commit() -> str:
    """The commit of the checkout, with `+changes` if the working tree differs; empty outside git."""
    if not IS_CHECKOUT:  # git would name the commit of whatever the package is installed in
        return ""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def flattened(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one level with dotted keys, as MLflow names parameters."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def log_metrics(run_id: str, metrics: Mapping[str, float]) -> None:
    """Log metrics to a run, which need not be active, in few calls: each is a transaction of the store."""
    now = time.time_ns() // 1_000_000
    log_in_batches(run_id, [Metric(name, value, now, 0) for name, value in metrics.items()])


def log_in_batches(run_id: str, metrics: Sequence[Metric]) -> None:
    """Log metrics with their times and steps to a run, in as few calls as MLflow allows."""
    for at in range(0, len(metrics), METRICS_A_CALL):
        mlflow.MlflowClient().log_batch(run_id, metrics=metrics[at : at + METRICS_A_CALL])
