"""The processes that are measured: the service, what it is compared with, and the bundle without a server."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from protos.errors import Unavailable
from serving.limits import Bounds
from serving.load.cores import Set, on

PATIENCE = 120.0  # seconds until a server answers, and until it has stopped
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Service:
    """A server in a process of its own.

    Args:
        name: of it in the report.
        address: where it answers.
        process: that was started; it may have others.
    """

    name: str
    address: str
    process: "subprocess.Popen[bytes]"

    def memory(self) -> int:
        """Bytes of all its processes, what they share counted once (PSS; where nobody tells that, USS)."""
        root = psutil.Process(self.process.pid)
        found = 0
        for process in (root, *root.children(recursive=True)):
            try:
                told = process.memory_full_info()
            except psutil.NoSuchProcess:  # it has ended meanwhile
                continue
            found += int(getattr(told, "pss", told.uss))
        return found


def ours(bundle: Path, cores: Set, workers: int = 1) -> Any:
    """The service itself, for as long as the block lasts; a `Service`.

    Args:
        bundle: that it serves.
        cores: that it runs on.
        workers: processes that answer.

    Raises:
        Unavailable: it does not come up.
    """
    arguments = ["-m", "serving", "serve", "--bundle", str(bundle), "--port", "0", "--workers", str(workers)]
    arguments += ["--connections-per-address", str(Bounds().connections)]  # all clients have one address
    return _running("search", arguments, cores)


def following(
    model: str, store: str, folder: Path, cores: Set, poll: float, workers: int | None = None
) -> Any:
    """As `ours`, on whatever an alias of a registry names.

    Args:
        model: the alias.
        store: URI of the registry.
        folder: receives the bundles that it downloads.
        cores: that it runs on.
        poll: seconds between two looks at the registry.
        workers: processes that answer; the service's own choice if not given.
    """
    arguments = ["-m", "serving", "serve", "--model", model, "--poll", str(poll), "--port", "0"]
    if workers is not None:
        arguments += ["--workers", str(workers)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "TWINSPIRE_CACHE": str(folder)}
    environment.pop("MLFLOW_REGISTRY_URI", None)
    return _running("serve", arguments, cores, environment)


def reference(kind: str, bundle: Path, cores: Set) -> Any:
    """As `ours`, one of the servers of `reference.py`, with gRPC as it is by itself."""
    arguments = ["-m", "serving.load.reference", kind, "--bundle", str(bundle)]
    return _running(kind, arguments, cores, {**os.environ, "GRPC_EXPERIMENTS": ""})


class InProcess:
    """The bundle without a service; `inprocess.py` on the other side of a pipe.

    Args:
        process: that was started.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def measure(self, size: int, seconds: float, pause: float = 0.0) -> dict[str, float]:
        """Batches of so many queries for a while, after a pause each: `qps`, and `p50_us` of a batch.

        Raises:
            Unavailable: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{size} {seconds} {pause}\n".encode())
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = b""
        if not line:
            raise Unavailable("the process that searches without a server has ended")
        found: dict[str, float] = json.loads(line)
        return found


@contextmanager
def in_process(bundle: Path, cores: Set, queries: Path | None, k: int, seed: int) -> Iterator[InProcess]:
    """The bundle in a process of its own, for as long as the block lasts; arguments as of `inprocess.py`."""
    arguments = ["-m", "serving.load.inprocess", "--bundle", str(bundle), "--k", str(k), "--seed", str(seed)]
    if queries is not None:
        arguments += ["--queries", str(queries.resolve())]
    with tempfile.TemporaryFile() as log, on(cores):
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT
        )
    with ended(process):
        yield InProcess(process)


@contextmanager
def _running(
    name: str, arguments: Sequence[str], cores: Set, environment: Mapping[str, str] | None = None
) -> Iterator[Service]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port_file = folder / "port"
        log = stack.enter_context((folder / "log").open("wb"))
        command = [sys.executable, *arguments, "--port-file", str(port_file)]
        with on(cores):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=ROOT,
                env=environment,
            )
        stack.enter_context(ended(process))
        until = time.monotonic() + PATIENCE
        while not port_file.is_file():
            if process.poll() is not None or time.monotonic() > until:
                last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
                raise Unavailable(f"{name}: did not come up: {' '.join(last) or 'it says nothing'}")
            time.sleep(0.02)
        yield Service(name, f"127.0.0.1:{int(port_file.read_text())}", process)


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End a process when the block does: the end of its input, a signal, and then by force."""
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
