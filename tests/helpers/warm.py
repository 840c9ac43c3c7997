"""Python processes that begin with torch and MLflow imported: forks of a process that has done so once.

A test that kills a process, or sets several against each other, needs real processes, but not the five
seconds of processor time in which each would import the same packages. Nothing of this project is imported
before the fork, as modules of it read the environment when they are imported.
"""

import atexit
import contextlib
import gc
import io
import json
import math
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # `train.paths` would read the environment before it is set
SLOW = (
    "mlflow mlflow.artifacts mlflow.genai mlflow.store.tracking.sqlalchemy_store torch torch.export"
    " torch._dynamo torch._functorch.aot_autograd torch.onnx._internal.exporter._core"
    " sklearn.feature_extraction.text sklearn.linear_model scipy.sparse scipy.stats matplotlib.figure"
    " onnx onnxscript onnxruntime polars rich.console rich.progress tests.helpers.warmed"
).split()
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(SLOW)
PATH = [*sys.path]  # before a test loads a model of MLflow, which adds the folder of the model's code

# Of `warm_executable`. What is no command of torch and MLflow becomes a process of the Python beside it.
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
arguments = [each for each in sys.argv[1:] if each != "-u"]
if arguments[:1] != ["-m"] or not arguments[1].startswith(("twinspire.train", "twinspire.export")):
    os.execv({other!r}, [{other!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: server.sendall(bytes([number])))
    code = int(server.makefile().read())
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class WarmPython:
    """A Python whose slow imports are done, used like `subprocess.Popen([sys.executable, *arguments])`.

    Variables that the imported libraries read while they are imported, such as OMP_NUM_THREADS, are those of
    the first of these processes.

    Args:
        arguments: of Python: `-c`, code, and its arguments; or `-m`, a module, and its arguments.
        env: the environment; that of this process if None.
        cwd: where it works.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Any = ROOT) -> None:
        asks, output, said = (CONTEXT.Pipe(duplex=False) for _ in range(3))
        given = dict(os.environ if env is None else env)
        self.process = CONTEXT.Process(
            target=_main, args=(arguments, given, str(cwd), PATH, asks[0], output[1], said[1]), daemon=True
        )
        self.process.start()
        for theirs in (asks[0], output[1], said[1]):
            theirs.close()
        self.stdin, self.stdout, self.stderr = _text(asks[1], "w"), _text(output[0]), _text(said[0])

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | Any:
        """Its exit code, or minus the number of the signal that ended it; None while it runs."""
        return self.process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """The rest of what it prints, stdout and stderr, until it has ended.

        Raises:
            subprocess.TimeoutExpired: after `timeout` seconds it, or a process of its own that prints to the
                same place, has not ended.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        found = ["", ""]
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()

        def read(place: int, stream: io.TextIOWrapper) -> None:
            found[place] = "" if stream.closed else stream.read()

        readers = [
            threading.Thread(target=read, args=each, daemon=True)
            for each in enumerate((self.stdout, self.stderr))
        ]
        for each in readers:
            each.start()
        self.process.join(timeout)
        for each in readers:
            each.join(None if timeout is None else max(0.0, until - time.monotonic()))
        if self.process.exitcode is None or any(each.is_alive() for each in readers):
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        for stream in (self.stdout, self.stderr):
            stream.close()
        return found[0], found[1]


def run(
    command: Sequence[str],
    *,
    cwd: Any,
    env: Mapping[str, str],
    capture_output: bool,
    text: bool,
    check: bool,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` of a command line of this Python, whose output is captured as text."""
    assert capture_output and text and not check
    process = WarmPython(*command[1:], env=env, cwd=cwd)
    output, said = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output, said)


@contextlib.contextmanager
def warm_executable(place: Path, other: Path) -> Iterator[Path]:
    """Write an executable file that is started as a Python is, by make or torchrun, within the block.

    Commands of `twinspire.train` and `twinspire.export` become forks as those of `WarmPython`. A fork has the
    input, output and environment of the process of that file, gets its SIGINT and SIGTERM, and is killed when
    that process dies. That process ends with the exit code of the fork.

    Args:
        place: of the file.
        other: the Python that runs all else.
    """
    with tempfile.TemporaryDirectory(prefix="warm-") as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/socket"  # a longer path than a test's folder would be refused
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        place.write_text(CLIENT.format(python=sys.executable, other=str(other), address=address))
        place.chmod(0o755)
        try:
            yield place
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # `accept` of the thread fails


def _accept(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_fork_for, args=(client,), daemon=True).start()


def _fork_for(client: socket.socket) -> None:
    """Start what a `CLIENT` asks for, pass signals on to it, and send its exit code."""
    with client:
        size, places, *_ = socket.recv_fds(client, 8, 3)
        with client.makefile("rb") as stream:
            arguments, env, cwd = json.loads(stream.read(int.from_bytes(size, "big")))
        streams = [Connection(place) for place in places]
        process = CONTEXT.Process(target=_main, args=(arguments, env, cwd, PATH, *streams), daemon=True)
        process.start()
        for each in streams:
            each.close()
        while process.exitcode is None:
            if client in wait([process.sentinel, client]):
                for number in client.recv(8) or [signal.SIGKILL]:  # nothing: the other end has died
                    os.kill(process.pid or 0, number)
                    if number == signal.SIGKILL:
                        process.join()
        with contextlib.suppress(BrokenPipeError):
            client.sendall(str(process.exitcode).encode())


def _text(connection: "Connection[Any, Any]", mode: str = "r") -> io.TextIOWrapper:
    """What is read from a connection, or written to it, as text."""
    with connection:
        return io.TextIOWrapper(os.fdopen(os.dup(connection.fileno()), f"{mode}b"))


def _main(
    arguments: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    path: Sequence[str],
    asks: "Connection[Any, Any]",
    output: "Connection[Any, Any]",
    said: "Connection[Any, Any]",
) -> None:
    """What the fork does: become a Python that was started with these arguments."""
    gc.freeze()  # a full collection writes to all objects, so it would copy their pages
    early = [
        name for name in sys.modules if name.partition(".")[0] in ("protos", "train", "export", "serving")
    ]
    assert not early, f"{early}: imported before the environment was set"
    for number, connection in enumerate((asks, output, said)):
        os.dup2(connection.fileno(), number)
        connection.close()
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # may have children
    kind, what, *rest = arguments
    assert kind in ("-c", "-m"), arguments
    try:
        if kind == "-m":
            _time_without_warm_up()
            sys.argv = [what, *rest]
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv = [kind, *rest]
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def _time_without_warm_up() -> None:
    """Time calls as the process of the tests does, whose tests check no times: `pytest_runtest_setup`."""
    from twinspire.protos.system import timing  # reads no environment

    timing.WARM_UP, timing.FIRST = 0.0, 2
