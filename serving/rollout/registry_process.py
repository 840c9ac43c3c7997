"""The registry in a process of its own, so that calls have timeouts and MLflow's threads stay out of the
service.

    with RegistryProcess() as registry:
        registry.resolve("models:/pydocs@champion")

MLflow waits for minutes if a server does not answer, and cannot be interrupted. So this process sends a line
of JSON, waits for the answer, and kills the other process on a timeout; the next call starts another one. The
other process ends by itself when this one has ended, even during a download. A call during a download is
answered by a second process, which ends with the download.
"""

import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from twinspire.protos import entry_points
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.serving.rollout.registry import (
    Meanwhile,
    Registered,
    do_nothing,
    store_file,
    store_uri,
)

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
MISSING = (0,)  # result of `_store_identity` if there is no such file
ERRORS = {error.__name__: error for error in (MissingStage, Unavailable)}


class RegistryProcess:
    """A `Registry` whose calls have timeouts. For one thread.

    Args:
        stop: ends a running call with Unavailable.
        timeout: seconds that a call may take, or a download without progress.
        start_timeout: the same for the first call.
    """

    def __init__(
        self,
        stop: threading.Event | None = None,
        timeout: float = TIMEOUT_SECONDS,
        start_timeout: float = START_TIMEOUT_SECONDS,
    ) -> None:
        self._stop = stop
        self._timeout, self._start_timeout = timeout, start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._store: tuple[int, ...] = ()
        self._fresh = True
        self._read = b""
        self._second: RegistryProcess | None = None  # during a download

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the other process."""
        if self._process:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
        self._process, self._read = None, b""

    def resolve(self, model: str) -> Registered:
        """As `Registry` says."""
        return Registered(*(self._second or self)._ask("resolve", model))

    def download(self, registered: Registered, draft: Path, meanwhile: Meanwhile = do_nothing) -> None:
        """As `Registry` says."""
        with RegistryProcess(self._stop, self._timeout, self._start_timeout) as self._second:
            try:
                arguments = registered, str(draft.absolute())
                self._ask("download", *arguments, progress=lambda: _size(draft), meanwhile=meanwhile)
            finally:
                self._second = None

    def _ask(
        self,
        call: str,
        *arguments: Any,
        progress: Callable[[], int] = lambda: 0,
        meanwhile: Meanwhile = do_nothing,
    ) -> Any:
        try:
            process = self._running()
        except OSError as error:
            text = f"the registry's process cannot be started: {error.strerror or error}"
            raise Unavailable(text) from None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([call, *arguments]).encode() + b"\n")
            process.stdin.flush()
            answer = parse_json(self._line(process, progress, meanwhile))
        except (OSError, ValueError, Unavailable) as error:
            code = process.poll()
            self.close()
            if isinstance(error, Unavailable):
                raise
            raise Unavailable(f"the registry's process ended (exit code {code})") from None
        except BaseException:  # of `meanwhile`: the answer must not be taken for that of the next call
            self.close()
            raise
        if "error" in answer:
            raise ERRORS.get(answer["error"], Unavailable)(answer["text"])
        return answer["result"]

    def _running(self) -> "subprocess.Popen[bytes]":
        """The process, started anew if it has ended or if the registry's file has been replaced."""
        store = _store_identity()
        replaced = store not in (MISSING, self._store)
        if self._process and (replaced or self._process.poll() is not None):
            self.close()  # the process would go on reading a file that has been replaced
        if self._process is None:
            environment = {**HTTP, **os.environ}
            self._process = subprocess.Popen(
                entry_points.command(entry_points.REGISTRY),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a signal to the group is for the service, which ends this process
            )
            self._store, self._fresh = store, True
        return self._process

    def _line(
        self, process: "subprocess.Popen[bytes]", progress: Callable[[], int], meanwhile: Meanwhile
    ) -> bytes:
        """The next line that the process writes; empty if it has ended."""
        assert process.stdout is not None
        timeout = self._start_timeout if self._fresh else self._timeout
        until, seen = time.monotonic() + timeout, progress()
        while b"\n" not in self._read:
            if select.select([process.stdout], [], [], POLL_SECONDS)[0]:
                read = os.read(process.stdout.fileno(), 1 << 16)
                if not read:
                    process.wait()
                    return b""
                self._read += read
                continue
            if self._stop is not None and self._stop.is_set():
                raise Unavailable("the service stops")
            began = time.monotonic()
            meanwhile()
            until += time.monotonic() - began
            if (now := progress()) != seen:
                until, seen = time.monotonic() + timeout, now
            if time.monotonic() > until:
                raise Unavailable(f"the registry did not answer within {timeout:g} s")
        line, _, self._read = self._read.partition(b"\n")
        self._fresh = False
        return line


def _store_identity() -> tuple[int, ...]:
    """Device and inode of the registry's file; empty if the registry is not a file."""
    try:
        uri = store_uri()
        path = store_file(uri)
        if path is None:
            return ()
        found = path.stat()
        return found.st_dev, found.st_ino
    except (MissingStage, OSError):
        return MISSING


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
