"""The real service that is attacked, seen from outside: its memory, its descriptors and its workers."""

import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from protos.errors import Unavailable
from serving.benchmark.services import ROOT, ended

START_SECONDS = 60.0


class Service:
    """A running `python -m serving serve`.

    Args:
        process: the supervisor.
        port: that the workers listen on.
        log: file that it logs into.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._process, self._log = process, log
        self._root = psutil.Process(process.pid)

    def resident(self) -> int:
        """Resident bytes of all its processes."""
        return int(self._sum(lambda process: process.memory_info().rss))

    def descriptors(self) -> int:
        """Open descriptors of all its processes."""
        return int(self._sum(lambda process: process.num_fds()))

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill_worker(self, rng: random.Random) -> bool:
        """Kill one worker with SIGKILL; False where none lives."""
        workers = self._root.children()
        if workers:
            rng.choice(workers).send_signal(signal.SIGKILL)
        return bool(workers)

    def exit_code(self) -> int | None:
        """Exit code of the supervisor; None while it runs."""
        return self._process.poll()

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
    """Run the service for as long as the block lasts.

    Args:
        bundle: that it serves.
        workers: processes that answer.
        flags: further flags of `serve`.

    Raises:
        Unavailable: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="twinspire-hostile-") as folder:
        port_file, log = Path(folder) / "port", Path(folder) / "log"
        command = [sys.executable, "-m", "serving", "serve", "--bundle", str(bundle), "--port", "0"]
        command += ["--port-file", str(port_file), "--workers", str(workers), *flags]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, cwd=ROOT
            )
        with ended(process):
            until = time.monotonic() + START_SECONDS
            while not port_file.is_file():
                if process.poll() is not None or time.monotonic() > until:
                    raise Unavailable(
                        f"the service did not start:\n{log.read_text(errors='replace')[-2000:]}"
                    )
                time.sleep(0.02)
            yield Service(process, int(port_file.read_text()), log)
