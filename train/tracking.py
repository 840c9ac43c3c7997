"""Everything that is said to MLflow tracking.

The store is SQLite under `mlruns/` unless `MLFLOW_TRACKING_URI` names another; all stages behave the same
against either.
"""

import fcntl
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, RunStatus, ViewType
from mlflow.exceptions import MlflowException

from protos.errors import MissingStage, Unavailable
from protos.mlflow_names import STAGE
from train.places import MLRUNS, ROOT

FINGERPRINT = "twinspire.fingerprint"
SQLITE = "sqlite:///"


def connect(folder: Path = MLRUNS) -> str:
    """Point MLflow at its store, which is made first where it is an SQLite file and missing.

    Returns:
        the tracking URI.

    Raises:
        Unavailable: the store cannot be made.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # its notes of what goes well are many
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # which belongs to results
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{folder / 'mlflow.db'}"
    database = _database(uri)
    if database is not None:
        _make_store(database)
    mlflow.set_tracking_uri(uri)
    return uri


def _database(uri: str) -> Path | None:
    """The SQLite file that a tracking URI names; None where the store is another one."""
    name = uri.removeprefix(SQLITE).partition("?")[0]
    if not uri.startswith(SQLITE) or not name or name.startswith((":memory:", "file:")):
        return None
    return Path(name)


def _make_store(database: Path) -> None:
    """Make an SQLite store that is missing or empty.

    MLflow makes its tables step by step in the file itself, and fails where another process does the same.
    So the file is made beside its place and renamed, by one process at a time.

    Raises:
        Unavailable: the folder cannot be written.
    """
    if _is_made(database):
        return
    folder = database.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{database.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_made(database):
                return
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=folder.absolute()) as draft:
                made = Path(draft) / "mlflow.db"
                store: Any = SqlAlchemyStore(  # type: ignore[no-untyped-call]
                    f"{SQLITE}{made}", (folder.absolute() / "artifacts").as_uri()
                )
                store.engine.dispose()
                made.rename(database)
    except OSError as error:
        raise Unavailable(f"{database}: the store cannot be made: {error.strerror or error}") from None


def _is_made(database: Path) -> bool:
    return database.exists() and (not database.is_file() or database.stat().st_size > 0)


def experiment_id(name: str) -> str:
    """The MLflow experiment of that name, made if there is none."""
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    database = _database(mlflow.get_tracking_uri())
    place = None if database is None else (database.absolute().parent / "artifacts" / name).as_uri()
    try:
        return str(mlflow.create_experiment(name, place))
    except MlflowException:  # another process was faster
        found = mlflow.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def find_run(experiment: str, stage: str, fingerprint: str = "", status: str = "FINISHED") -> Run | None:
    """The newest run of a stage, with that fingerprint if one is given."""
    found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        return None
    terms = [f"tags.`{STAGE}` = '{stage}'", f"attributes.status = '{status}'"]
    if fingerprint:
        terms.append(f"tags.`{FINGERPRINT}` = '{fingerprint}'")
    runs = mlflow.search_runs(
        [found.experiment_id],
        " and ".join(terms),
        ViewType.ACTIVE_ONLY,
        max_results=1,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return runs[0] if runs else None


def get_run(run_id: str) -> Run:
    """The run of that id.

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
    """Whether MLflow says that what was asked for is not there, and not that it cannot tell."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def unreachable(error: MlflowException) -> Unavailable:
    """MLflow cannot tell."""
    return Unavailable(f"{mlflow.get_tracking_uri()}: MLflow does not answer: {error.message}")


@contextmanager
def tracked(experiment: str, stage: str, fingerprint: str, resume: str | None = None) -> Iterator[str]:
    """A run for as long as the block lasts; it ends as finished, failed, or killed if interrupted.

    Args:
        resume: the id of a run to go on with.

    Yields:
        the run's id.
    """
    mlflow.set_system_metrics_sampling_interval(5)  # type: ignore[no-untyped-call]
    mlflow.start_run(
        run_id=resume,
        experiment_id=None if resume else experiment_id(experiment),
        tags={STAGE: stage, FINGERPRINT: fingerprint, **environment()},
        log_system_metrics=True,
    )
    active = mlflow.active_run()
    assert active is not None
    status = RunStatus.FAILED
    try:
        yield active.info.run_id
        status = RunStatus.FINISHED
    except KeyboardInterrupt:
        status = RunStatus.KILLED
        raise
    finally:
        mlflow.end_run(RunStatus.to_string(status))


def environment() -> dict[str, str]:
    """What the code and the machine are: tags of a run."""
    return {
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "command": " ".join(sys.argv),
    }


def git_commit() -> str:
    """The checkout's commit, with `+changes` where the tree differs from it; empty outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one level of dotted keys, as MLflow's parameters are."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
