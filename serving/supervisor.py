"""Several processes that answer on one port, and the supervisor that keeps them running.

A bundle that never changes is loaded before the fork, and the supervisor freezes its memory (`gc.freeze`),
so that the workers share it. The kernel spreads connections over the workers (SO_REUSEPORT). gRPC starts in
the workers alone, because it does not survive a fork. A process that dies is forked again, without effect on
the others. A process whose heartbeat stops is killed and forked again. One SIGTERM to the supervisor drains
all processes. If the supervisor itself is killed, they stop by themselves.

    processes = [ProcessSpec("worker 0", run), ProcessSpec("worker 1", run)]
    Supervisor(processes, grace_seconds=10).run(ready=print)
"""

import gc
import logging
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from twinspire.protos.errors import TwinspireError, Unavailable
from twinspire.protos.system.signals import signal_name
from twinspire.serving.address import join, listen_error

log = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGINT)
CRASHED = 3  # exit code of a process that could not start, or failed
START_SECONDS = 60.0  # in which all processes must be ready
SHORT_LIFE_SECONDS = 5.0  # a process that dies sooner is restarted after a pause that doubles each time
MAX_PAUSE_SECONDS = 5.0  # before a process that keeps dying is restarted
NICE = 19  # where the system has no policy for processes that run while others are idle
KILL_SECONDS = 5.0  # beyond the grace, after which a process that does not stop is killed
REPEAT_SECONDS = 1.0  # after the first signal to stop, in which another one is taken for a copy of it
RESTART_SECONDS = 300.0  # least silence after which a process that has not started yet counts as hung
TICK_SECONDS = 1.0  # between two checks of the heartbeats, at most
POLL_SECONDS = 0.05  # between two looks at the pending signals, at the start and without sigtimedwait(2)


class WorkerHandle:
    """A process's connection to its supervisor: reports that it is ready, and waits for the order to stop."""

    def __init__(self, alive: int, ready: int) -> None:
        self._alive, self._ready = alive, ready
        self._signals, wakeup = os.pipe()  # Python writes the number of each signal to the second
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup)
        for number in STOP:
            signal.signal(number, _noted)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    def ready(self, report: str = "") -> None:
        """Report that the process works from now on. Call it once.

        Args:
            report: one line for the supervisor, such as a port; it becomes `ProcessSpec.report`.
        """
        os.write(self._ready, f"{report}\n".encode())
        os.close(self._ready)

    def wait(self) -> None:
        """Return when the process has to stop, because a signal has come or the supervisor has died."""
        while self._alive not in select.select([self._alive, self._signals], [], [])[0]:
            if any(number in STOP for number in os.read(self._signals, 512)):
                return

    def stop_event(self) -> threading.Event:
        """An event that is set when the process has to stop; starts a thread that waits for that."""
        stopped = threading.Event()

        def wait() -> None:
            self.wait()
            stopped.set()

        threading.Thread(target=wait, name="stop", daemon=True).start()
        return stopped


def run_when_idle() -> None:
    """Let this thread, and those that it starts, run only where nothing else needs the processor."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):  # not Linux, or not allowed
        os.nice(NICE)


class Heartbeat:
    """A counter in shared memory: a process increments it while it works, and its supervisor reads it.

    Make it before the fork.
    """

    def __init__(self) -> None:
        self._cell = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def reset(self) -> None:
        """Set the counter to 0: the process has not started yet."""
        self._cell[0] = 0

    def beat(self) -> None:
        """Increment the counter."""
        self._cell[0] += 1

    def count(self) -> float:
        """The counter, as `ProcessSpec.heartbeat` returns it."""
        return self._cell[0]


@dataclass
class ProcessSpec:
    """One process to keep running.

    Args:
        run: what the process runs, from start to stop, given its `WorkerHandle`.
        heartbeat: gives a number that changes while the process works; 0 until it has started. A process
            whose number stays the same for too long is replaced. If not given, the process is not checked.
        patience: least number of seconds without a heartbeat after which this process is replaced, if the
            supervisor's timeout is shorter.

    Attributes:
        report: the line that the process passed to `WorkerHandle.ready` at the start of the service.
        pid: process id, 0 while the process does not run.
        started: when it was forked last, by `time.monotonic()`.
        pause: seconds between its last end and its restart.
        due: when it has to be restarted, by `time.monotonic()`.
        ready: file descriptor from which the supervisor reads `report`; -1 while the process does not run.
        beat: the last value of `heartbeat`.
        silent_seconds: since the heartbeat last changed, counted in the supervisor's ticks.
    """

    name: str
    run: Callable[[WorkerHandle], None]
    heartbeat: Callable[[], float] | None = None
    patience: float = 0.0
    report: str = ""
    pid: int = 0
    started: float = 0.0
    pause: float = 0.0
    due: float = 0.0
    ready: int = -1
    beat: float = 0.0
    silent_seconds: float = 0.0


def _noted(number: int, frame: FrameType | None) -> None:
    """Does nothing: the signal's number is written to the wake-up pipe, which `wait` reads."""


class Supervisor:
    """Forks processes and keeps them running until it is told to stop. Use it in a process with one thread.

    Args:
        grace_seconds: in which they may finish their work when they are told to stop.
        died: called with a process that has ended unexpectedly.
        timeout: seconds without a heartbeat after which a process is killed and restarted; 0: never.
        hung: called with a process that is killed for that.
        tick: called every second, or more often.
    """

    def __init__(
        self,
        processes: Sequence[ProcessSpec],
        grace_seconds: float,
        died: Callable[[ProcessSpec], None] = lambda process: None,
        timeout: float = 0.0,
        hung: Callable[[ProcessSpec], None] = lambda process: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._processes = list(processes)
        self._grace = grace_seconds
        self._died, self._hung, self._tick = died, hung, tick
        self._timeout = timeout
        self._tick_seconds = min(TICK_SECONDS, timeout / 4) if timeout else TICK_SECONDS
        self._ticked = 0.0
        self._alive = (-1, -1)

    def run(self, ready: Callable[[], None]) -> None:
        """Start all processes, call `ready` when all are ready, and return when all have stopped.

        A signal to stop that comes before all are ready ends them, too, and `ready` is not called.

        From then on this process ignores the signals to stop, because it is expected to exit: a signal to a
        process group may arrive twice, and the second one must not turn the exit code into a failure.

        Raises:
            Unavailable: a process could not be started, was not ready in time, or ended before it was.
        """
        gc.collect()
        gc.freeze()  # a collection must not write to the memory that is shared from here on
        with blocked((*STOP, signal.SIGCHLD)):
            try:
                self._start_all()
                if self._await_ready():
                    ready()
                    self._watch()
            finally:
                self._stop()
            for number in STOP:
                signal.signal(number, signal.SIG_IGN)

    def _start_all(self) -> None:
        try:
            self._alive = os.pipe()  # never written to; closes when the supervisor dies
            for process in self._processes:
                self._fork(process)
        except OSError as error:
            refused = next(process for process in self._processes if process.pid == 0)
            raise Unavailable(f"{refused.name}: cannot be started: {error.strerror}") from None

    def _fork(self, process: ProcessSpec) -> None:
        """Start a process.

        Raises:
            OSError: no process or no file descriptor is left.
        """
        # Otherwise the new process could write the buffered output once more.
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            try:
                stream.flush()
            except OSError as error:  # such as a pipe that its reader has closed; a pause would not help
                log.warning("%s cannot be flushed: %s", name, error.strerror)
        process.started, process.beat, process.silent_seconds = time.monotonic(), 0.0, 0.0
        process.ready, ready = os.pipe()
        try:
            process.pid = os.fork()
        except OSError:
            os.close(ready)
            os.close(process.ready)
            process.ready = -1
            raise
        if process.pid == 0:
            code = CRASHED
            try:
                os.close(self._alive[1])
                for each in self._processes:
                    if each.ready >= 0:  # the supervisor's ends of the pipes
                        os.close(each.ready)
                process.run(WorkerHandle(self._alive[0], ready))
                code = 0
            except TwinspireError as error:
                log.error("%s: %s", process.name, error)
            except BaseException:
                log.error("%s: %s", process.name, traceback.format_exc())
            finally:
                logging.shutdown()
                os._exit(code)  # without the supervisor's own clean-up
        os.close(ready)

    def _await_ready(self) -> bool:
        """Wait until all processes are ready; returns False if a signal to stop comes before."""
        until = time.monotonic() + START_SECONDS
        for n, process in enumerate(self._processes):
            while not _is_readable(process.ready, min(POLL_SECONDS, until - time.monotonic())):
                if _wait_for_signal(STOP, 0.0) is not None:
                    log.info("stopping; requests in flight have %g s", self._grace)
                    self._kill_starting(self._processes[n:])
                    return False
                if time.monotonic() >= until:
                    raise Unavailable(f"{process.name}: not ready after {START_SECONDS:g} s")
            line = os.read(process.ready, 1024).decode()
            if not line.endswith("\n"):
                raise Unavailable(f"{process.name}: ended before it was ready; the log says why")
            process.report = line.strip()
        return True

    def _kill_starting(self, processes: Sequence[ProcessSpec]) -> None:
        """Kill those that are not ready: they answer no request, and workers look for a stop when ready."""
        for process in processes:
            if not _is_readable(process.ready, 0.0):
                log.info("%s has not started yet; killed", process.name)
                os.kill(process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        """Restart processes that die or hang, until a signal to stop comes."""
        self._ticked = time.monotonic()
        while True:
            due = [process.due for process in self._processes if process.pid == 0]
            wake = min([self._ticked + self._tick_seconds, *due])
            caught = _wait_for_signal((*STOP, signal.SIGCHLD), wake - time.monotonic())
            if caught in STOP:
                log.info("stopping; requests in flight have %g s", self._grace)
                return
            self._reap()
            if time.monotonic() >= self._ticked + self._tick_seconds:
                self._on_tick()
            for process in self._processes:
                if process.pid == 0 and process.due <= time.monotonic():
                    self._restart(process)

    def _restart(self, process: ProcessSpec) -> None:
        """Start a process that has died; if the system refuses, set the time of the next attempt."""
        try:
            self._fork(process)
        except OSError as error:
            _postpone(process)
            log.error("%s cannot be started: %s; next attempt in %g s", process.name, error, process.pause)

    def _on_tick(self) -> None:
        """Kill processes whose heartbeat has stopped, and call `tick`.

        Each check adds one tick to a process's silence, however long ago the last check was: if the
        supervisor did not run either, because the machine slept or all processes were stopped, that time says
        nothing about the process.
        """
        self._ticked = time.monotonic()
        for process in self._processes:
            if self._timeout and process.pid and process.heartbeat is not None:
                self._check_heartbeat(process, process.heartbeat())
        try:
            self._tick()
        except Exception:
            log.exception("the supervisor goes on after an error")

    def _check_heartbeat(self, process: ProcessSpec, beat: float) -> None:
        if beat != process.beat:
            process.beat, process.silent_seconds = beat, 0.0
            return
        process.silent_seconds += self._tick_seconds
        least = process.patience if beat else RESTART_SECONDS
        if process.silent_seconds >= max(least, self._timeout):
            log.error("%s hangs: no heartbeat for %g s; killed", process.name, process.silent_seconds)
            process.silent_seconds = 0.0
            self._hung(process)
            os.kill(process.pid, signal.SIGKILL)

    def _reap(self) -> None:
        """Find processes that have died, and set the time of their restart."""
        for process in self._processes:
            if process.pid == 0:
                continue
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                process.pid = 0
                _postpone(process)
                os.close(process.ready)
                process.ready = -1
                self._died(process)
                log.error("%s died (%s); starting it again", process.name, _cause(status))

    def _stop(self) -> None:
        """Tell all processes to stop, wait, and kill those that do not stop; another signal ends the wait.

        A signal within `REPEAT_SECONDS` does not end it: when a process group is told to stop, `make` sends
        its child the signal that the child already has.
        """
        living = [process for process in self._processes if process.pid]
        for process in living:
            os.kill(process.pid, signal.SIGTERM)
        repeats_count_from = time.monotonic() + REPEAT_SECONDS
        until = time.monotonic() + self._grace + KILL_SECONDS
        while living and time.monotonic() < until:
            living = [process for process in living if os.waitpid(process.pid, os.WNOHANG)[0] == 0]
            caught = _wait_for_signal((*STOP, signal.SIGCHLD), 0.1) if living else None
            if caught is None or caught not in STOP:
                continue
            name = signal.Signals(caught).name
            if time.monotonic() >= repeats_count_from:
                log.warning("%s again: requests in flight are broken off", name)
                break
            log.info("%s again, within %g s of the first: taken for a copy of it", name, REPEAT_SECONDS)
        for process in living:
            log.error("%s does not stop; killed", process.name)
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)


def _postpone(process: ProcessSpec) -> None:
    """Set the time of a process's next start: now, or after a pause if it was started a short time ago."""
    now = time.monotonic()
    is_soon = now - process.started < SHORT_LIFE_SECONDS
    process.pause = min(MAX_PAUSE_SECONDS, max(0.1, process.pause * 2)) if is_soon else 0.0
    process.due = now + process.pause


def _is_readable(descriptor: int, seconds: float) -> bool:
    """Whether a pipe has data or has ended, at the latest after some seconds."""
    return bool(select.select([descriptor], [], [], max(0.0, seconds))[0])


def _wait_for_signal(signals: Collection[int], seconds: float) -> int | None:
    """Take one of some signals, which must be blocked; returns its number, or None if none comes in time.

    macOS lacks sigtimedwait(2); there the pending signals are polled. It may also discard a SIGCHLD for which
    no handler is set: a caller must look for ended processes after the time, too.
    """
    timed_wait = getattr(signal, "sigtimedwait", None)
    if timed_wait is not None:
        caught = timed_wait(signals, max(0.0, seconds))
        return None if caught is None else int(caught.si_signo)
    until = time.monotonic() + seconds
    while not (pending := signal.sigpending().intersection(signals)):
        left = until - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(POLL_SECONDS, left))
    return signal.sigwait(pending)


@contextmanager
def blocked(signals: Sequence[int]) -> Iterator[None]:
    """Block signals within the `with` block; a signal that arrives meanwhile stays pending."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal_name(os.WTERMSIG(status))
    return f"exit code {os.WEXITSTATUS(status)}"


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Reserve a port for servers that share it by SO_REUSEPORT; yields its number.

    Args:
        port: 0 for any free one.

    Raises:
        Unavailable: the port is in use, or the host is not this machine's.
    """
    address = join(host, port)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as alone:  # a port that is shared counts as in use
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
            port = alone.getsockname()[1]
        shared = socket.socket(family, socket.SOCK_STREAM)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, port))  # never listens, so it gets no connection
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"{address}: cannot listen there: {listen_error(error)}") from None
    with shared:
        yield port
