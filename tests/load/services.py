"""The processes of a measurement, and the cores that they run on.

The measured server runs on one core and the load on another, so that neither slows the other.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import psutil

from twinspire.protos import entry_points
from twinspire.protos.errors import Unavailable
from twinspire.serving.engine.limits import WorkerLimits

START_SECONDS = 120.0  # longest wait for a process to start, and to stop
STEP_SECONDS = 0.02  # between two looks at what is waited for
ROOT = Path(__file__).parents[2]
SERVE = ("serving", "serve", "--json", "--port", "0")  # module and arguments of the service

CoreSet = frozenset[int] | None  # None: the system chooses
Found = TypeVar("Found")


@dataclass(frozen=True)
class Cores:
    """The cores of a measurement."""

    servers: CoreSet = None  # of the measured server; servers are measured one at a time
    load: CoreSet = None  # of the load generator
    both: CoreSet = None  # for several workers and the load together
    note: str = ""  # why processes are not pinned; empty where they are


def choose_cores() -> Cores:
    """Two of the cores that this process may use."""
    if not hasattr(os, "sched_setaffinity"):
        return Cores(note="not pinned: this system does not let a process choose its cores")
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        return Cores(note="not pinned: servers and load share the only core")
    try:
        os.sched_setaffinity(0, free)
    except OSError as error:
        return Cores(note=f"not pinned: {error.strerror}")
    first, second = free[:2]
    return Cores(frozenset({first}), frozenset({second}), frozenset({first, second}))


class Service:
    """A started process, in conversation by lines of JSON; `log` is the file of its standard error."""

    address = ""  # that it listens on, if it is a server

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.name, self.process = name, process
        self._input, self._output, self._log = process.stdin, process.stdout, log

    def send(self, *values: Any) -> None:
        try:
            self._input.write(json.dumps(values).encode() + b"\n")
            self._input.flush()
        except OSError:
            raise self._failed("has ended") from None

    def has_answer(self, seconds: float = 0.0) -> bool:
        """Whether a line can be read, after up to `seconds`."""
        return bool(select.select([self._output], [], [], seconds)[0])

    def answer(self, seconds: float = START_SECONDS) -> Any:
        if not self.has_answer(seconds):
            raise self._failed(f"no answer within {seconds:g} s")
        line = self._output.readline()
        if not line:
            raise self._failed("has ended")
        return json.loads(line)

    def ask(self, *values: Any, seconds: float = START_SECONDS) -> Any:
        """The answer to a line; errors as of `send` and `answer`."""
        self.send(*values)
        return self.answer(seconds)

    def processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def memory(self) -> int:
        """Bytes of all its processes, shared memory counted once (PSS; USS where that is unknown)."""
        total = 0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                info = process.memory_full_info()
                total += int(getattr(info, "pss", info.uss))
        return total

    def log(self) -> str:
        """What it has written to its standard error."""
        descriptor = self._log.fileno()  # its offset is the process's own, too
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def _failed(self, what: str) -> Unavailable:
        last = self.log().strip().rpartition("\n")[2]
        return Unavailable(f"{self.name}: {what}: {last or 'its log is empty'}")


@contextmanager
def pinned(cores: CoreSet, *services: Service) -> Iterator[None]:
    """Run the block, the processes that it starts, and those of some services on these cores."""
    if cores is None:
        yield
        return
    pids = [0, *(each.pid for service in services for each in service.processes())]
    before = {pid: os.sched_getaffinity(pid) for pid in pids}
    for pid in before:
        _pin(pid, cores)
    try:
        yield
    finally:
        for pid, old in before.items():
            _pin(pid, old)


def _pin(pid: int, cores: Iterable[int]) -> None:
    """Set the cores of this thread, whose process is 0, or of all threads of a process that has not ended."""
    if not pid:
        os.sched_setaffinity(0, cores)
        return
    with suppress(OSError, psutil.Error):
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores)


def report_ready(**values: Any) -> None:
    """Write the line by which a process of a measurement says that it has started."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def wait_for(find: Callable[[], Found | None], failure: str) -> Found:
    """What a function finds, once that is true."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if found := find():
            return found
        time.sleep(STEP_SECONDS)
    raise Unavailable(f"{failure} within {START_SECONDS:g} s")


@contextmanager
def started(
    name: str,
    module: str,
    *arguments: str,
    cores: CoreSet = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """A process of `python -m MODULE`, for as long as the block lasts.

    It is ready when it has answered one line, a server's with its `port`. The environment is added to that of
    this process.
    """
    command, variables = entry_points.command(module, *arguments), {**os.environ, **(environment or {})}
    with tempfile.TemporaryFile() as log:
        with pinned(cores):
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=variables
            )
        with ended(process):
            service = Service(name, process, log)
            service.address = f"127.0.0.1:{service.answer().get('port')}"
            yield service


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop a process when the block ends: close its input, send SIGTERM, and kill it after a timeout."""
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def serve_bundle(
    bundle: Path,
    cores: CoreSet = None,
    workers: int = 1,
    *flags: str,
    environment: Mapping[str, str] | None = None,
) -> AbstractContextManager[Service]:
    """The service with a bundle, on some cores, with further flags; see `started`."""
    flags += ("--bundle", str(bundle), "--workers", str(workers))
    flags += ("--connections-per-address", str(WorkerLimits().connections))  # all clients have one address
    return started("search", *SERVE, *flags, cores=cores, environment=environment)


def serve_reference(kind: str, bundle: Path, cores: CoreSet) -> AbstractContextManager[Service]:
    """A plain server of `reference.py` with grpcio's defaults; see `started`."""
    module, variables = "tests.load.reference", {"GRPC_EXPERIMENTS": ""}
    return started(kind, module, kind, str(bundle.absolute()), cores=cores, environment=variables)
