"""The registry, asked in a process of its own: it can be given up on, and MLflow's threads are nobody else's.

    with RegistryProcess() as registry:
        registry.resolve("models:/pydocs@champion")

MLflow waits for minutes where a server does not answer, and cannot be interrupted. So this process sends a
line of JSON, waits for one that answers it, and ends the other process when it takes too long; the next call
starts another. That one ends by itself when this one has gone, be it in the middle of a download.
"""

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protos.documents import parse_json
from protos.errors import MissingStage, TwinspireError, Unavailable
from serving.following.registry import MlflowRegistry, Registered, ShadowPair, store_file, store_uri

PATIENCE = 30.0  # seconds for an answer; a database that is locked is waited for, for 20 of them
START_PATIENCE = 60.0  # for the first, before which MLflow has to be imported
SLICE = 0.1  # seconds between two looks whether to go on waiting
# Less than the patience, so that it is MLflow which says what is wrong.
HTTP = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DOWNLOAD_CHUNK_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
MISSING = (0,)  # instead of a file's device and number
ERRORS = {error.__name__: error for error in (MissingStage, Unavailable)}


class RegistryProcess:
    """A `Registry` whose calls take no longer than they may. Used by one thread.

    Args:
        stop: ends a call that is waited for, with Unavailable.
        patience: seconds that a call may take; a download, without a byte coming.
        start_patience: the same of the first call.
    """

    def __init__(
        self,
        stop: threading.Event | None = None,
        patience: float = PATIENCE,
        start_patience: float = START_PATIENCE,
    ) -> None:
        self._stop = stop
        self._patience, self._start_patience = patience, start_patience
        self._process: subprocess.Popen[bytes] | None = None
        self._store: tuple[int, ...] = ()
        self._fresh = True
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def hurry(self, seconds: float) -> None:
        """Calls may take no longer than this from now on, and are no longer stopped."""
        self._stop, self._patience, self._start_patience = None, seconds, seconds

    def resolve(self, model: str) -> Registered:
        """As `Registry` says."""
        return Registered(*self._ask("resolve", model))

    def download(self, registered: Registered, draft: Path) -> None:
        """As `Registry` says."""
        self._ask("download", registered, str(draft.absolute()), progress=lambda: _size(draft))

    def shadow_run(self, pair: ShadowPair, resume: bool) -> str:
        """As `Registry` says."""
        return str(self._ask("shadow_run", pair, resume))

    def log_shadow(self, run_id: str, metrics: Mapping[str, float], step: int, ended: bool) -> None:
        """As `Registry` says."""
        self._ask("log_shadow", run_id, dict(metrics), step, ended)

    def _ask(self, call: str, *arguments: Any, progress: Callable[[], int] = lambda: 0) -> Any:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([call, *arguments]).encode() + b"\n")
            process.stdin.flush()
            answer = parse_json(self._line(process, progress))
        except (OSError, ValueError, Unavailable) as error:
            code = process.poll()
            self.close()
            if isinstance(error, Unavailable):
                raise
            raise Unavailable(f"the process that asks the registry ended (exit code {code})") from None
        if "error" in answer:
            raise ERRORS[answer["error"]](answer["text"])
        return answer["result"]

    def _running(self) -> "subprocess.Popen[bytes]":
        store = _store_identity()
        replaced = store not in (MISSING, self._store)
        if self._process and (replaced or self._process.poll() is not None):
            self.close()  # it would go on reading a file that is another now
        if self._process is None:
            environment = {**HTTP, **os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.following.registry"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # it ends after this process, even if a signal goes to the group
            )
            self._store, self._fresh = store, True
        return self._process

    def _line(self, process: "subprocess.Popen[bytes]", progress: Callable[[], int]) -> bytes:
        """The next line that the process writes; empty where it ended."""
        assert process.stdout is not None
        patience = self._start_patience if self._fresh else self._patience
        until, seen = time.monotonic() + patience, progress()
        while b"\n" not in self._read:
            if select.select([process.stdout], [], [], SLICE)[0]:
                read = os.read(process.stdout.fileno(), 1 << 16)
                if not read:
                    process.wait()
                    return b""
                self._read += read
                continue
            if self._stop is not None and self._stop.is_set():
                raise Unavailable("the service stops")
            if (now := progress()) != seen:
                until, seen = time.monotonic() + patience, now
            if time.monotonic() > until:
                raise Unavailable(f"the registry did not answer within {patience:g} s")
        line, _, self._read = self._read.partition(b"\n")
        self._fresh = False
        return line


def answer_calls() -> None:
    """Be the other process: answer what comes in on standard input until that ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    calls: queue.Queue[bytes] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            calls.put(line)
        os._exit(0)  # who asked has gone, and with it the use of what is being done

    threading.Thread(target=listen, daemon=True).start()
    registry = MlflowRegistry()
    while True:
        answers.write(json.dumps(_answer(registry, *json.loads(calls.get()))).encode() + b"\n")
        answers.flush()


def _answer(registry: MlflowRegistry, call: str, *arguments: Any) -> dict[str, Any]:
    try:
        match call, arguments:
            case "resolve", (model,):
                return {"result": registry.resolve(model)}
            case "download", (registered, draft):
                registry.download(Registered(*registered), Path(draft))
                return {"result": None}
            case "shadow_run", (pair, resume):
                return {"result": registry.shadow_run(ShadowPair(*pair), resume)}
            case "log_shadow", (run_id, metrics, step, ended):
                registry.log_shadow(run_id, metrics, step, ended)
                return {"result": None}
        raise ValueError(call)
    except TwinspireError as error:
        return {"error": type(error).__name__, "text": str(error)}


def _store_identity() -> tuple[int, ...]:
    """Which file the registry is, where it is one."""
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
