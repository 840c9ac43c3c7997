"""The registry in a process of its own, so that calls have timeouts and MLflow's threads stay out of the
service.

    with RegistryProcess() as registry:
        registry.resolve("models:/pydocs@champion")

MLflow waits for minutes if a server does not answer, and cannot be interrupted. So this process sends the
call, waits for the answer, and kills the other process on a timeout; the next call starts another one. The
other process ends by itself when this one has ended, even during a download.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from twinspire.protos import entry_points
from twinspire.protos.errors import MissingStage, TwinspireError, Unavailable
from twinspire.serving.rollout.registry import Registered, store_file, store_uri

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
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:  # renamed meanwhile
                continue
    return total
