"""The real service that is attacked, seen from outside: its memory, its descriptors and its workers."""

import contextlib
import random
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.load import services
from tests.load.services import SERVE, started
from twinspire.serving import environment


class Service:
    """A running `python -m twinspire.serving serve`, and a gateway in front of it.

    Args:
        service: the supervisor, and what it has started.
        gateway: the process of the gateway.
    """

    def __init__(self, service: services.Service, gateway: services.Service) -> None:
        self.address, self.http_address = service.address, gateway.address
        self._service, self._gateway = service, gateway

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
        with suppress(psutil.NoSuchProcess):
            return [*self._gateway.processes(), *self._service.processes()]
        return []

    def kill_worker(self, rng: random.Random) -> bool:
        """Kill one worker with SIGKILL; False where none lives."""
        workers = psutil.Process(self._service.process.pid).children()
        if workers:
            rng.choice(workers).send_signal(signal.SIGKILL)
        return bool(workers)

    def exit_code(self) -> int | None:
        """Exit code of the supervisor or the gateway; None while both run."""
        code = self._service.process.poll()
        return self._gateway.process.poll() if code is None else code

    def log_bytes(self) -> int:
        """Size of both logs."""
        return sum(len(each.log().encode()) for each in (self._service, self._gateway))

    def log_end(self) -> str:
        """The last lines of each log."""
        logs = (each.log().splitlines()[-20:] for each in (self._service, self._gateway))
        return "\n".join(line for lines in logs for line in lines)

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
        store = ("--catalogue", f"sqlite:///{folder}/items.db")
        serve = started("service", *SERVE, "--bundle", str(bundle), "--workers", str(workers), *store, *flags)
        # This process has set the variable for itself, and a gateway would leave it as it is.
        variables = {"GRPC_EXPERIMENTS": environment.GATEWAY_EXPERIMENTS}
        with serve as service:
            front = ("--json", "--port", "0", "--address", service.address)
            with started("gateway", "serving", "gateway", *front, environment=variables) as gateway:
                yield Service(service, gateway)
