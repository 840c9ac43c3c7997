"""Real servers for tests: `mlflow server` and `mlflow models serve` over HTTP."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.ports import held_port

BIN = Path(sys.executable).parent
START_S = 90.0  # a machine that does other things beside takes its time


def server_of(backend: str, artefacts: Path) -> tuple[list[str], dict[str, str]]:
    """The command line of an MLflow server without its address, and the variables that it reads.

    The command `mlflow server` starts this same process, but imports for seconds first. The variables are
    private to MLflow: after an upgrade, compare them with `mlflow.server._run_server`.
    `tests/export/release/test_server.py` tests the command itself.

    Args:
        backend: URI of the database.
        artefacts: the folder for the artefacts, which the server gives out itself.
    """
    variables = {
        "_MLFLOW_SERVER_FILE_STORE": backend,
        "_MLFLOW_SERVER_REGISTRY_STORE": backend,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(artefacts),
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    return [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", "--workers", "1"], variables


@contextmanager
def mlflow_server(folder: Path, backend: str) -> Iterator[str]:
    """An MLflow server that keeps artefacts in `folder` and gives them out itself; its URL."""
    command, variables = server_of(backend, folder / "artifacts")
    with _serving(folder, command, "/health", **variables) as url:
        yield url


@contextmanager
def model_server(folder: Path, model: str, tracking_uri: str) -> Iterator[str]:
    """A registered model behind `mlflow models serve`, which finds no code of this checkout; its URL."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model]
    command += ["--env-manager", "local"]
    with _serving(folder, command, "/ping", MLFLOW_TRACKING_URI=tracking_uri) as url:
        yield url


@contextmanager
def _serving(folder: Path, command: list[str], path: str, **environment: str) -> Iterator[str]:
    """A process of MLflow, and those that it starts, until the block ends."""
    log = folder / f"{path.removeprefix('/')}.log"
    variables = {**os.environ, **environment, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    variables.pop("PYTHONPATH", None)  # a model server finds the code in the model, not in this checkout
    with held_port() as port, log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(process, log, lambda: _answers(url + path))
            yield url
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The process and those that it started, gently first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def _wait(process: "subprocess.Popen[bytes]", log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
