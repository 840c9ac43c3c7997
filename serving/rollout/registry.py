"""Reads MLflow's registry for the service, in a process of its own.

    with RegistryProcess() as registry:
        registry.resolve("models:/pydocs@champion")

    python -m twinspire.serving.rollout.registry 5   # the other process answers calls over this descriptor

So calls have timeouts, and MLflow's threads stay out of the service. MLflow waits for minutes if a server
does not answer, and cannot be interrupted. So the service sends the call, waits for the answer, and kills the
other process on a timeout; the next call starts another one. The other process ends by itself when the
service has ended, even during a download.

MLflow is imported with the first call, and never in a process that answers requests.
"""

import logging
import os
import queue
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

from twinspire.protos import entry_points, names
from twinspire.protos.cli import gc_paused
from twinspire.protos.errors import BundleDamaged, MissingStage, TwinspireError, Unavailable
from twinspire.protos.mlflow_keys import ABSENT, BUNDLE_VERSION

STORE = Path("mlruns/mlflow.db")
MODEL = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")
NUMBER = re.compile(r"[0-9]{1,18}")
SQLITE = "sqlite:///"
MAX_ERROR_LENGTH = 300  # characters of an error of MLflow
# MLflow, or Alembic for it, imports these if they are installed. Without them the registry's client starts in
# two thirds of the time, and takes 70 MB less memory.
NOT_NEEDED = ("pandas", "polars", "pygments")
TIMEOUT_SECONDS = 30.0  # for an answer; MLflow waits 20 s for a locked database
START_TIMEOUT_SECONDS = 60.0  # for the first answer, which includes the import of MLflow
POLL_SECONDS = 0.1  # between two checks for a stop or a timeout
# Shorter than the timeout, so that MLflow reports the cause.
HTTP = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DOWNLOAD_CHUNK_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Registered(NamedTuple):
    """A version of a registered model.

    Args:
        version: its number.
        bundle_version: of its bundle: the text of the version's tag, not checked; empty if there is no tag.
    """

    name: str
    version: str
    bundle_version: str = ""

    @property
    def uri(self) -> str:
        """In MLflow's notation."""
        return f"models:/{self.name}/{self.version}"

    def check(self) -> None:
        """Make sure that there is a tag, and that it is a bundle version.

        Raises:
            BundleDamaged: it is not.
        """
        try:
            names.bundle_version(self.bundle_version)
        except ValueError as error:
            raise BundleDamaged(f"{self.uri}: tag {BUNDLE_VERSION}: {error}") from None


def resolve(model: str) -> Registered:
    """The version that `models:/name@alias` or `models:/name/3` names; MLflow may block for minutes.

    Raises:
        MissingStage: there is none.
        Unavailable: the registry does not answer.
    """
    parts = MODEL.fullmatch(model)
    if parts is None:
        raise MissingStage(
            f"{model}: not in the registry, whose models are called models:/name@alias or models:/name/3"
        )
    with _asking(model) as client:
        if parts["alias"]:
            found = client.get_model_version_by_alias(parts["name"], parts["alias"])
        else:
            found = client.get_model_version(parts["name"], parts["version"])
        number = str(found.version)
        if not NUMBER.fullmatch(number):
            raise Unavailable(f"{model}: the registry answers with a version that is no number")
        return Registered(parts["name"], number, found.tags.get(BUNDLE_VERSION, ""))


def download(registered: Registered, draft: Path) -> None:
    """Copy all files of a version into a folder; errors as of `resolve`."""
    with _asking(registered.uri, "it cannot be downloaded"):
        import mlflow

        mlflow.artifacts.download_artifacts(artifact_uri=registered.uri, dst_path=str(draft))


def store_uri() -> str:
    """The registry's address.

    Raises:
        MissingStage: it is a file that does not exist; MLflow would create an empty one.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{STORE}"
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
    for each in (uri, registry):
        path = store_file(each)
        if path is not None and not path.is_file():
            raise MissingStage(f"there is no registry at {path}; `make register` makes one")
    return uri


def store_file(uri: str) -> Path | None:
    """The file of a store; None if the store is not a file."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def cleaned(text: str) -> str:
    """An error text of MLflow in one line, without credentials and without parts that change each time."""
    if "database is locked" in text:
        return "its database is locked"
    if "No space left on device" in text:
        return "no space left on the disk"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it does not say why")
    line = re.sub(r"://[^/\s]*@", "://", line)  # up to the last @, because a password may hold others
    line = re.sub(r"\?[^\s'\")]+", "", line)  # signed addresses hold a key there
    line = re.sub(r"<[^<>]* at 0x[0-9a-f]+>:? ?", "", line)
    if len(line) <= MAX_ERROR_LENGTH:
        return line
    return f"{line[: MAX_ERROR_LENGTH // 3]} ... {line[-MAX_ERROR_LENGTH // 2 :]}"


@contextmanager
def _asking(what: str, failure: str = "the registry does not answer") -> Iterator[Any]:
    """MLflow's client; its errors are converted to this program's.

    Args:
        what: begins the text of an error, such as the model.
        failure: describes what failed.
    """
    try:
        with gc_paused():
            import mlflow
            from mlflow.exceptions import MlflowException
    except ModuleNotFoundError:
        raise MissingStage(
            f"{what}: reading the registry takes MLflow, which is not installed here; "
            "install it, or serve a folder with --bundle"
        ) from None
    try:
        uri = store_uri()
    except MissingStage as error:
        raise MissingStage(f"{what}: {error}") from None
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True):
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                mlflow.set_tracking_uri(uri)
            with gc_paused():  # the first client imports its store
                client = mlflow.MlflowClient()
            yield client
    except TwinspireError:
        raise
    except MlflowException as error:
        text = cleaned(error.message)
        if error.error_code in ABSENT:
            raise MissingStage(
                f"{what}: not in the registry ({text}); `make register promote` puts it there"
            ) from None
        raise Unavailable(f"{what}: {failure}: {text}") from None
    except Exception as error:  # of a database, an artefact store, a disk: they share no other base
        raise Unavailable(f"{what}: {failure}: {cleaned(str(error))}") from None


def answer_calls(connection: Connection) -> None:
    """Answer the calls of a `RegistryProcess`, until it ends."""
    for name in NOT_NEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: Python refuses to import it
    calls: queue.Queue[tuple[Any, ...]] = queue.Queue()

    def listen() -> None:
        with suppress(EOFError, OSError):
            while True:
                calls.put(connection.recv())
        os._exit(0)  # the caller has ended, even if a call is still running

    threading.Thread(target=listen, daemon=True).start()
    while True:
        connection.send(_answer(*calls.get()))


def _answer(call: str, *arguments: Any) -> Any:
    """What `resolve` or `download` returns, or the error that it raises."""
    calls: dict[str, Callable[..., Any]] = {"resolve": resolve, "download": download}
    try:
        return calls[call](*arguments)
    except TwinspireError as error:
        return error
    except Exception as error:  # returned to the caller, because the log of this process is not kept
        return Unavailable(f"the registry failed: {error!r}")


class RegistryProcess:
    """The registry, by calls that have timeouts. For one thread.

    Args:
        stop: ends a running call with Unavailable.
        timeout: seconds that a call but the first may take, or a download without progress.
    """

    def __init__(self, stop: threading.Event | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        self._stop, self._timeout = stop, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None  # to the process
        self._store = 0
        self._fresh = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the other process."""
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._connection:
            self._connection.close()
        self._process = self._connection = None

    def resolve(self, model: str) -> Registered:
        """The version that an alias or a number names; errors as of `registry.resolve`."""
        found: Registered = self._ask("resolve", model)
        return found

    def download(self, registered: Registered, draft: Path) -> None:
        """Copy all files of a version into a folder; errors as of `registry.resolve`."""
        self._ask("download", registered, draft.absolute(), progress=lambda: _size(draft))

    def _ask(self, call: str, *arguments: Any, progress: Callable[[], int] = lambda: 0) -> Any:
        try:
            connection = self._running()
        except OSError as error:
            text = f"the registry's process cannot be started: {error.strerror or error}"
            raise Unavailable(text) from None
        try:
            connection.send((call, *arguments))
            self._await(connection, progress)
            answer = connection.recv()
        except (OSError, EOFError):
            code = None
            if self._process:
                with suppress(subprocess.TimeoutExpired):  # it lives, if the error was not of its connection
                    code = self._process.wait(1.0)
            self.close()
            raise Unavailable(f"the registry's process ended (exit code {code})") from None
        except BaseException:  # the answer must not be taken for that of the next call
            self.close()
            raise
        self._fresh = False
        if isinstance(answer, TwinspireError):
            raise answer
        return answer

    def _running(self) -> Connection:
        """The connection to the process, which is started anew if it has ended or its file was replaced."""
        store = _store_inode()
        replaced = store not in (0, self._store)
        if self._process and (replaced or self._process.poll() is not None):
            self.close()  # the process would go on reading a file that has been replaced
        if self._connection is None:
            ours, theirs = Pipe()
            with theirs:
                self._process = subprocess.Popen(
                    entry_points.command(entry_points.REGISTRY, str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**HTTP, **os.environ},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # a signal to the group is for the service, which ends it
                )
            self._connection, self._store, self._fresh = ours, store, True
        return self._connection

    def _await(self, connection: Connection, progress: Callable[[], int]) -> None:
        """Wait for the answer, or the end of the process.

        Raises:
            Unavailable: it takes too long, or the service stops.
        """
        timeout = START_TIMEOUT_SECONDS if self._fresh else self._timeout
        until, seen = time.monotonic() + timeout, progress()
        while not connection.poll(POLL_SECONDS):
            if self._stop is not None and self._stop.is_set():
                raise Unavailable("the service stops")
            if (now := progress()) != seen:
                until, seen = time.monotonic() + timeout, now
            if time.monotonic() > until:
                raise Unavailable(f"the registry did not answer within {timeout:g} s")


def _store_inode() -> int:
    """The inode of the registry's file; 0 if the file is missing, or the registry is no file."""
    with suppress(MissingStage, OSError):
        if path := store_file(store_uri()):
            return path.stat().st_ino
    return 0


def _size(folder: Path) -> int:
    """Bytes in a folder that is being filled."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:  # renamed meanwhile
                continue
    return total


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("error: expected the number of a descriptor")
    from twinspire.serving.rollout import (
        registry,
    )  # the classes that are sent are of this module, not __main__

    registry.answer_calls(Connection(int(sys.argv[1])))
