"""Several processes that answer on one port, and one that looks after them.

The supervisor loads the bundle, freezes it and forks: the workers share its memory, and the system spreads
connections over them (SO_REUSEPORT). gRPC starts in the workers alone, for it does not survive a fork. A
process that dies is forked anew, and the others do not notice. A process whose heartbeat stops is killed and
forked anew. One SIGTERM to the supervisor drains them all, and SIGHUP makes them reload their files. If the
supervisor itself is killed, they stop by themselves.

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
from typing import TypeVar

from protos.errors import TwinspireError, Unavailable
from serving.address import join

log = logging.getLogger(__name__)

Result = TypeVar("Result")

STOP = (signal.SIGTERM, signal.SIGINT)
HANDLED = (*STOP, signal.SIGHUP)
CRASHED = 3  # exit code of a process that could not start or broke off
PATIENCE = 60.0  # seconds until the first processes must be ready
QUICK = 5.0  # seconds of life below which a death is one of a series
LONGEST_PAUSE = 5.0  # seconds before a process that keeps dying is started again
SPARE = 5.0  # seconds beyond the grace after which a process is killed
REPEAT_SECONDS = 1.0  # in which another signal to stop is taken for a copy of the first
STARTING = 300.0  # seconds in which a process that is started again must show its first heartbeat
TICK = 1.0  # seconds between two looks at the heartbeats, at most


class Lifeline:
    """What a process knows of its supervisor: how to say that it is ready, and when to stop."""

    def __init__(self, alive: int, ready: int) -> None:
        self._alive, self._ready = alive, ready
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._woken)
        for number in HANDLED:
            signal.signal(number, _noted)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    def ready(self, says: str = "") -> None:
        """The process does its work from now on; the supervisor learns what it says."""
        os.write(self._ready, f"{says}\n".encode())
        os.close(self._ready)

    def wait(self, reload: Callable[[], None] = lambda: None) -> None:
        """Return when it is time to stop: a signal has come, or the supervisor has gone.

        Args:
            reload: called after each SIGHUP.
        """
        while True:
            readable = select.select([self._alive, self._wake], [], [])[0]
            if self._alive in readable:
                return
            if any(number in STOP for number in os.read(self._wake, 512)):
                return
            reload()


@dataclass
class Role:
    """One process to keep alive.

    Args:
        name: for the log.
        run: what it does, from start to stop, given its `Lifeline`.
        heartbeat: gives a number that changes while the process works; 0 until it has started. A process
            whose number stays the same for too long is replaced; without it, the process is not checked.

    Attributes:
        says: what it said when it was ready.
        pid: of the process, 0 where there is none.
        silent: seconds, in the supervisor's ticks, since the heartbeat last changed.
    """

    name: str
    run: Callable[[Lifeline], None]
    heartbeat: Callable[[], float] | None = None
    says: str = ""
    pid: int = 0
    started: float = 0.0
    pause: float = 0.0
    due: float = 0.0
    ready: int = -1
    beat: float = 0.0
    silent: float = 0.0


def _noted(number: int, frame: FrameType | None) -> None:
    """A signal has come; the wake-up pipe says so to whoever waits."""


class Supervisor:
    """Forks roles and keeps them alive until it is told to stop. Call it from a process with one thread.

    Args:
        roles: processes to keep.
        grace_seconds: in which they may finish what they do once they are told to stop.
        died: told of a role whose process has ended without being told to.
        timeout: seconds without a heartbeat after which a process is killed and started again; 0: never.
        hung: told of a role whose process is killed for that.
        tick: called every second, or more often; returns whether the processes are to reload.
        reload: called on SIGHUP, before the processes are told to reload.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        grace_seconds: float,
        died: Callable[[Role], None] = lambda role: None,
        timeout: float = 0.0,
        hung: Callable[[Role], None] = lambda role: None,
        tick: Callable[[], bool] = lambda: False,
        reload: Callable[[], None] = lambda: None,
    ) -> None:
        self._roles = list(roles)
        self._grace = grace_seconds
        self._died, self._hung, self._tick, self._reload = died, hung, tick, reload
        self._timeout = timeout
        self._tick_seconds = min(TICK, timeout / 4) if timeout else TICK
        self._ticked = 0.0
        self._alive = os.pipe()  # nobody writes; its end is the supervisor's

    def run(self, ready: Callable[[], None]) -> None:
        """Start everything, call `ready` once it all is, and return when all has been stopped.

        From then on this process ignores the signals to stop, since it is expected to exit: one that is sent
        to a process group may arrive twice, and the second must not turn the exit code into a failure.

        Raises:
            Unavailable: a process was not ready in time, or ended before it was.
        """
        gc.collect()
        gc.freeze()  # what is shared from here on shall not be written to by a collection
        with blocked((*HANDLED, signal.SIGCHLD)):
            try:
                for role in self._roles:
                    self._fork(role)
                self._await_ready()
                ready()
                self._watch()
            finally:
                self._stop()
            for number in HANDLED:
                signal.signal(number, signal.SIG_IGN)

    def _fork(self, role: Role) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        role.started, role.beat, role.silent = time.monotonic(), 0.0, 0.0
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
        """Start again what dies or hangs, until a signal says stop."""
        self._ticked = time.monotonic()
        while True:
            due = [role.due for role in self._roles if role.pid == 0]
            wake = min([self._ticked + self._tick_seconds, *due])
            caught = signal.sigtimedwait((*HANDLED, signal.SIGCHLD), max(0.0, wake - time.monotonic()))
            if caught is not None and caught.si_signo in STOP:
                log.info("stopping; requests in flight have %g s", self._grace)
                return
            if caught is not None and caught.si_signo == signal.SIGHUP:
                _guarded(self._reload)
                self._tell_to_reload()
            self._bury()
            if time.monotonic() >= self._ticked + self._tick_seconds:
                self._on_tick()
            for role in self._roles:
                if role.pid == 0 and role.due <= time.monotonic():
                    self._fork(role)

    def _tell_to_reload(self) -> None:
        for role in self._roles:
            if role.pid:
                os.kill(role.pid, signal.SIGHUP)

    def _on_tick(self) -> None:
        """Kill processes whose heartbeat has stopped, and call `tick`.

        A process is charged one tick each time, however long ago the tick before was: if the supervisor did
        not run either, because the machine slept or all processes were stopped, that time says nothing about
        the process.
        """
        self._ticked = time.monotonic()
        for role in self._roles:
            if self._timeout and role.pid and role.heartbeat is not None:
                self._check_heartbeat(role, role.heartbeat())
        if _guarded(self._tick):
            self._tell_to_reload()

    def _check_heartbeat(self, role: Role, beat: float) -> None:
        if beat != role.beat:
            role.beat, role.silent = beat, 0.0
            return
        role.silent += self._tick_seconds
        if role.silent >= (self._timeout if beat else max(STARTING, self._timeout)):
            log.error("%s hangs: no heartbeat for %g s; killed", role.name, role.silent)
            role.silent = 0.0
            self._hung(role)
            os.kill(role.pid, signal.SIGKILL)

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
        """Tell all processes to stop, wait, and kill those that do not; another signal ends the wait.

        A signal within `REPEAT_SECONDS` does not: where a process group is told to stop, `make` sends its
        child the signal that the child has got already.
        """
        living = [role for role in self._roles if role.pid]
        for role in living:
            os.kill(role.pid, signal.SIGTERM)
        impatient = time.monotonic() + REPEAT_SECONDS
        until = time.monotonic() + self._grace + SPARE
        while living and time.monotonic() < until:
            living = [role for role in living if os.waitpid(role.pid, os.WNOHANG)[0] == 0]
            caught = signal.sigtimedwait((*STOP, signal.SIGCHLD), 0.1) if living else None
            if caught is not None and caught.si_signo in STOP and time.monotonic() >= impatient:
                break
        for role in living:
            log.error("%s does not stop; killed", role.name)
            os.kill(role.pid, signal.SIGKILL)
            os.waitpid(role.pid, 0)


def _guarded(function: Callable[[], Result]) -> Result | None:
    """Call it; an error is logged, and does not end the supervisor."""
    try:
        return function()
    except Exception:
        log.exception("the supervisor goes on after an error")
        return None


@contextmanager
def blocked(signals: Sequence[int]) -> Iterator[None]:
    """Block signals within the block; one that comes is pending until it is asked for."""
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
