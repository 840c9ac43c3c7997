"""Several processes that answer on one port, and one that looks after them.

The supervisor loads the bundle, freezes it and forks: the workers share its memory, and the system spreads
connections over them (SO_REUSEPORT). gRPC starts in the workers alone, for it does not survive a fork. A
process that dies is forked anew, and the others do not notice; one SIGTERM to the supervisor drains them all;
and if the supervisor itself is killed, they stop by themselves.

    Supervisor([Role("worker 0", run), Role("worker 1", run)], grace_seconds=10).run(ready=print)
"""

import gc
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from protos.errors import TwinspireError, Unavailable
from serving.address import join

log = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGINT)
CRASHED = 3  # exit code of a process that could not start or broke off
PATIENCE = 60.0  # seconds until the first processes must be ready
QUICK = 5.0  # seconds of life below which a death is one of a series
LONGEST_PAUSE = 5.0  # seconds before a process that keeps dying is started again
SPARE = 5.0  # seconds beyond the grace after which a process is killed


class Lifeline:
    """What a process knows of its supervisor: how to say that it is ready, and when to stop."""

    def __init__(self, alive: int, ready: int) -> None:
        self._alive, self._ready = alive, ready
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken)
        for number in STOP:
            signal.signal(number, _noted)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    def ready(self, says: str = "") -> None:
        """The process does its work from now on; the supervisor learns what it says."""
        os.write(self._ready, f"{says}\n".encode())
        os.close(self._ready)

    def wait(self) -> None:
        """Return when it is time to stop: a signal has come, or the supervisor has gone."""
        select.select([self._alive, self._wake], [], [])


@dataclass
class Role:
    """One process to keep alive.

    Args:
        name: for the log.
        run: what it does, from start to stop, given its `Lifeline`.

    Attributes:
        says: what it said when it was ready.
        pid: of the process, 0 where there is none.
    """

    name: str
    run: Callable[[Lifeline], None]
    says: str = ""
    pid: int = 0
    started: float = 0.0
    pause: float = 0.0
    due: float = 0.0
    ready: int = -1


def _noted(number: int, frame: FrameType | None) -> None:
    """A signal has come; the wake-up pipe says so to whoever waits."""


class Supervisor:
    """Forks roles and keeps them alive until it is told to stop. Call it from a process with one thread.

    Args:
        roles: processes to keep.
        grace_seconds: in which they may finish what they do once they are told to stop.
        died: told of a role whose process has ended without being told to.
    """

    def __init__(
        self, roles: Sequence[Role], grace_seconds: float, died: Callable[[Role], None] = lambda role: None
    ) -> None:
        self._roles = list(roles)
        self._grace = grace_seconds
        self._died = died
        self._alive = os.pipe()  # nobody writes; its end is the supervisor's

    def run(self, ready: Callable[[], None]) -> None:
        """Start everything, call `ready` once it all is, and return when all has been stopped.

        Raises:
            Unavailable: a process was not ready in time, or ended before it was.
        """
        gc.collect()
        gc.freeze()  # what is shared from here on shall not be written to by a collection
        with _blocked((*STOP, signal.SIGCHLD)):
            try:
                for role in self._roles:
                    self._fork(role)
                self._await_ready()
                ready()
                self._watch()
            finally:
                self._stop()

    def _fork(self, role: Role) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        role.started = time.monotonic()
        role.ready, ready = os.pipe()
        role.pid = os.fork()
        if role.pid == 0:
            code = CRASHED
            try:
                os.close(self._alive[1])
                role.run(Lifeline(self._alive[0], ready))
                code = 0
            except TwinspireError as error:
                log.error("%s: %s", role.name, error)
            except BaseException:
                log.error("%s: %s", role.name, traceback.format_exc())
            finally:
                logging.shutdown()
                os._exit(code)  # the supervisor's own clean-up is not for its children to do
        os.close(ready)

    def _await_ready(self) -> None:
        until = time.monotonic() + PATIENCE
        for role in self._roles:
            left = max(0.0, until - time.monotonic())
            if not select.select([role.ready], [], [], left)[0]:
                raise Unavailable(f"{role.name}: not ready after {PATIENCE:g} s")
            said = os.read(role.ready, 1024).decode()
            if not said.endswith("\n"):
                raise Unavailable(f"{role.name}: ended before it was ready; the log says why")
            role.says = said.strip()

    def _watch(self) -> None:
        """Start again what dies, until a signal says stop."""
        while True:
            waiting = [role.due for role in self._roles if role.pid == 0]
            timeout = max(0.0, min(waiting) - time.monotonic()) if waiting else 3600.0
            caught = signal.sigtimedwait((*STOP, signal.SIGCHLD), timeout)
            if caught is not None and caught.si_signo in STOP:
                log.info("stopping; requests in flight have %g s", self._grace)
                return
            self._bury()
            for role in self._roles:
                if role.pid == 0 and role.due <= time.monotonic():
                    self._fork(role)

    def _bury(self) -> None:
        """Note who has died, and when each is due to live again."""
        now = time.monotonic()
        for role in self._roles:
            if role.pid == 0:
                continue
            pid, status = os.waitpid(role.pid, os.WNOHANG)
            if pid:
                series = now - role.started < QUICK
                role.pause = min(LONGEST_PAUSE, max(0.1, role.pause * 2)) if series else 0.0
                role.pid, role.due = 0, now + role.pause
                os.close(role.ready)
                self._died(role)
                log.error("%s died (%s); starting it again", role.name, _cause(status))

    def _stop(self) -> None:
        """Tell everybody to stop, wait, and kill who does not; a second signal is the end of patience."""
        living = [role for role in self._roles if role.pid]
        for role in living:
            os.kill(role.pid, signal.SIGTERM)
        until = time.monotonic() + self._grace + SPARE
        while living and time.monotonic() < until:
            living = [role for role in living if os.waitpid(role.pid, os.WNOHANG)[0] == 0]
            caught = signal.sigtimedwait((*STOP, signal.SIGCHLD), 0.1) if living else None
            if caught is not None and caught.si_signo in STOP:
                break
        for role in living:
            log.error("%s does not stop; killed", role.name)
            os.kill(role.pid, signal.SIGKILL)
            os.waitpid(role.pid, 0)


@contextmanager
def _blocked(signals: Sequence[int]) -> Iterator[None]:
    """Signals that come in here wait until somebody asks for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.WEXITSTATUS(status)}"


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Keep a port for servers that share it; gives its number.

    Args:
        host: to listen on.
        port: 0 for any free one.

    Raises:
        Unavailable: somebody else has it, or the host is not this machine's.
    """
    address = join(host, port)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as alone:  # no port that somebody shares is free
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
            port = alone.getsockname()[1]
        shared = socket.socket(family, socket.SOCK_STREAM)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))  # never listens, so no connection comes here
    except OSError as error:
        raise Unavailable(f"{address}: cannot listen there; is the port in use? ({error.strerror})") from None
    with shared:
        yield port
