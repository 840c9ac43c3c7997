"""The real service that is attacked, seen from outside: its memory, its descriptors and its workers."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.load.services import ROOT, ended
from twinspire.protos.errors import Unavailable

START_SECONDS = 60.0


class Service:
    """A running `python -m twinspire.serving serve`, and a gateway in front of it.

    Args:
        process: the supervisor.
        gateway: the process of the gateway.
        port: that the workers listen on.
        http_port: that the gateway listens on.
        log: file that both log into.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        gateway: "subprocess.Popen[bytes]",
        port: int,
        http_port: int,
        log: Path,
    ) -> None:
        self.address, self.http_address = f"127.0.0.1:{port}", f"127.0.0.1:{http_port}"
        self._process, self._gateway, self._log = process, gateway, log
        self._root = psutil.Process(process.pid)

    def resident(self) -> int:
        """Resident bytes of all its processes."""
        return int(self._sum(lambda process: process.memory_info().rss))

    def resident_each(self) -> dict[str, int]:
        """Resident MiB of each of its processes, by its id and the end of its command line."""
        sizes = {}
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                command = " ".join(process.cmdline()[-3:])
                sizes[f"{process.pid} {command[-60:]}"] = process.memory_info().rss >> 20
        return sizes

    def descriptors(self) -> int:
        """Open descriptors of all its processes."""
        return int(self._sum(lambda process: process.num_fds()))

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        try:
            gateway = psutil.Process(self._gateway.pid)
            return [gateway, self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill_worker(self, rng: random.Random) -> bool:
        """Kill one worker with SIGKILL; False where none lives."""
        workers = self._root.children()
        if workers:
            rng.choice(workers).send_signal(signal.SIGKILL)
        return bool(workers)

    def exit_code(self) -> int | None:
        """Exit code of the supervisor or the gateway; None while both run."""
        code = self._process.poll()
        return self._gateway.poll() if code is None else code

    def log_bytes(self) -> int:
        """Size of the log."""
        return self._log.stat().st_size

    def log_end(self) -> str:
        """The last lines of the log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def _sum(self, figure: Callable[[psutil.Process], Any]) -> Any:
        total = 0
        for process in self.processes():
            try:
                total += figure(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it was killed meanwhile
                continue
            except psutil.AccessDenied:  # of a zombie's descriptors
                continue
        return total


class Used:
    """Processor seconds of groups of processes since the first look; of one that ends, until the last look.

    Args:
        groups: name -> its processes now.
    """

    def __init__(self, groups: Mapping[str, Callable[[], list[psutil.Process]]]) -> None:
        self._groups = groups
        self._seen: dict[str, dict[psutil.Process, float]] = {name: {} for name in groups}
        self.seconds = dict.fromkeys(groups, 0.0)
        self.look()
        self.seconds = dict.fromkeys(groups, 0.0)

    def look(self) -> None:
        """Add what has been used since the last look."""
        for name, processes in self._groups.items():
            seen = self._seen[name]
            for process in processes():
                with contextlib.suppress(psutil.Error):  # it has ended
                    now = sum(process.cpu_times()[:2])
                    self.seconds[name] += now - seen.get(process, 0.0)
                    seen[process] = now


@contextmanager
def serving(bundle: Path, workers: int, flags: Sequence[str] = ()) -> Iterator[Service]:
    """Run the service, with live items, and a gateway, for as long as the block lasts.

    Args:
        bundle: that it serves.
        workers: processes that answer.
        flags: further flags of `serve`.

    Raises:
        Unavailable: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="twinspire-hostile-") as folder:
        log, catalogue = Path(folder) / "log", f"sqlite:///{folder}/items.db"
        serve = (
            "serve",
            "--bundle",
            str(bundle),
            "--workers",
            str(workers),
            "--catalogue",
            catalogue,
            *flags,
        )
        with ExitStack() as stack:
            process, port = stack.enter_context(_started(serve, log))
            front = _started(("gateway", "--address", f"127.0.0.1:{port}"), log)
            gateway, http_port = stack.enter_context(front)
            yield Service(process, gateway, port, http_port, log)


@contextmanager
def _started(arguments: Sequence[str], log: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A process of `python -m twinspire.serving`, and the port that it listens on.

    Raises:
        Unavailable: it does not start.
    """
    port_file = log.with_name(f"{arguments[0]}-port")
    command = [
        sys.executable,
        "-m",
        "twinspire.serving",
        *arguments,
        "--port",
        "0",
        "--port-file",
        str(port_file),
    ]
    # This process has set the variable for itself, and a gateway needs another value.
    variables = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            cwd=ROOT,
            env=variables,
        )
    with ended(process):
        until = time.monotonic() + START_SECONDS
        while not port_file.is_file():
            if process.poll() is not None or time.monotonic() > until:
                raise Unavailable(f"it did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        yield process, int(port_file.read_text())
