"""Starts the processes that train together, and ends them: with the last step, or with the first that fails.

    with ranks_of(trainer, count, threads):
        trainer.fit(callbacks)

The calling process is rank 0; the others begin with a copy of its trainer, whose towers and optimiser are in
shared memory. They call the methods that rank 0 names, and compute with the others over gloo, on the loopback
interface. Where a rank has ended, the others learn it by the closed connection, and end, too. Until the ranks
are connected, rank 0 watches whether the other processes live. Each of these ends as soon as rank 0 has
ended.
"""

import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch.distributed import FileStore  # type: ignore[attr-defined]

from protos.errors import Unavailable
from protos.system.cores import thread_count
from protos.system.signals import signal_name
from train.training.device import SINGLE_PROCESS, memory_advice
from train.training.ranks import ROWS_FROM, Leader, Rank, share_memory
from train.training.trainer import Trainer

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
LONG = timedelta(days=7)  # of one exchange; rank 0 may evaluate for hours between two
STARTED_SECONDS = 600.0  # for a rank to start and receive the data
MEET_SECONDS = 300.0  # for all started ranks to join the process group
ENDED_SECONDS = 10.0  # for the ranks beside one that has ended to end, too
LOST = 3  # exit code of a rank that ends because another has


@contextmanager
def ranks_of(trainer: Trainer, count: int, threads: int, to_resume: str = "") -> Iterator[None]:
    """Train with `count` processes in this block; with one, nothing changes.

    Args:
        threads: torch's threads of each rank; 0 divides the cores.
        to_resume: the command that resumes the run, for the error about a rank that has ended.

    Raises:
        Unavailable: a rank could not start, or has ended, or the shared memory is too small.
    """
    if count == 1:
        yield
        return
    with Ranks(count, threads, to_resume).started() as ranks, ranks.training(trainer):
        yield


class Ranks:
    """Processes that train together, this one and `count - 1` that it starts.

    Args:
        count: at least 2.
        threads: torch's threads of each; 0 divides the cores, see `thread_count`.
        to_resume: the command that resumes the run, for the error about a rank that has ended.
    """

    def __init__(self, count: int, threads: int, to_resume: str = "") -> None:
        self.count = count
        self.threads = thread_count(threads, count)
        self._to_resume = to_resume
        self._processes: list[Any] = []
        self._connections: list[Connection] = []

    @contextmanager
    def started(self) -> Iterator["Ranks"]:
        """Start the others, and end them behind the block.

        Raises:
            Unavailable: a rank could not start, or has ended.
        """
        threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory(prefix="twinspire-ranks-") as folder:
            store = str(Path(folder, "store"))
            try:
                for rank in range(1, self.count):
                    self._start(rank, store)
                self._wait_for_all()
                torch.set_num_threads(self.threads)
                self._join_watching(store)
                with _without_tracebacks_of_sharing():
                    yield self
            except (RuntimeError, ConnectionError, EOFError) as error:
                if not isinstance(error, _RankFailed) and memory_advice(error, SINGLE_PROCESS):
                    raise  # the memory of rank 0 itself has run out
                ended = self._ended(str(error) if isinstance(error, _RankFailed) else "")
                if ended is None:
                    raise
                advice = f"; `{self._to_resume}` goes on from the last checkpoint" if self._to_resume else ""
                raise Unavailable(f"{ended}{advice}") from error
            finally:
                torch.set_num_threads(threads)
                self._end()

    @contextmanager
    def training(self, trainer: Trainer, rows_from: int = ROWS_FROM) -> Iterator[None]:
        """Train with all ranks in this block.

        Raises:
            Unavailable: the shared memory is too small.
        """
        alone = trainer.process
        share_memory(trainer)
        for connection in self._connections:
            connection.send((trainer, rows_from))
        self._wait_for_all()
        leader = Leader(self._connections, trainer, rows_from)
        trainer.process = leader
        try:
            yield
        finally:
            leader.release()
            trainer.process = alone

    def _start(self, rank: int, store: str) -> None:
        """Start a rank. The signals that ask for a stop stay blocked in it: rank 0 answers them."""
        context = processes.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (rank, self.count, self.threads, store, theirs)
        process = context.Process(target=_follow, args=arguments, name=f"rank {rank}", daemon=True)
        resource_tracker.ensure_running()  # which would unblock the signals when it starts itself
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            process.start()
            self._processes.append(process)  # before a signal that waits is answered
            self._connections.append(ours)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()

    def _wait_for_all(self) -> None:
        """Wait until each rank says that it is ready.

        Raises:
            ConnectionError, EOFError: a rank has ended.
            RuntimeError: a rank has failed.
            Unavailable: a rank does not start.
        """
        for process, connection in zip(self._processes, self._connections, strict=True):
            if not wait([connection, process.sentinel], STARTED_SECONDS):
                raise Unavailable(f"{process.name} did not start within {STARTED_SECONDS:.0f} seconds")
            told = connection.recv()
            if told is not None:
                raise _RankFailed(told)

    def _join_watching(self, store: str) -> None:
        """Join the process group on a thread, while the calling thread watches whether the other ranks live.

        Raises:
            ConnectionError: one has ended.
            RuntimeError: torch cannot make the process group.
        """
        failures: list[Exception] = []
        finished, finish = processes.get_context("spawn").Pipe(duplex=False)

        def join() -> None:
            try:
                _join_group(0, self.count, store)
            except Exception as error:
                failures.append(error)
            finish.close()

        threading.Thread(target=join, name="ranks meet", daemon=True).start()
        with finished:
            if finished not in wait([finished, *[each.sentinel for each in self._processes]]):
                failures.append(ConnectionError("a rank has ended before it joined the process group"))
        if failures:
            from torch.distributed.distributed_c10d import _world  # torch has no public name for it

            _world.group_count = 0  # torch names groups by it, and new ranks count from 0
            raise failures[0]

    def _end(self) -> None:
        for process in self._processes:
            process.kill()  # it has nothing to save
            process.join()
        for connection in self._connections:
            connection.close()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _ended(self, told: str) -> str | None:
        """Which rank has ended, and why; None if none has. The first one makes the others end.

        Args:
            told: the traceback that it has sent, if that has been received.
        """
        until = time.monotonic() + ENDED_SECONDS
        if not wait([each.sentinel for each in self._processes], ENDED_SECONDS):
            return None
        while time.monotonic() < until:
            for process, connection in zip(self._processes, self._connections, strict=True):
                if process.exitcode not in (None, LOST):
                    return _cause(process, connection, self.count, told)
            time.sleep(0.05)
        return f"a rank of {self.count} has lost its connection to the others"


@contextmanager
def _without_tracebacks_of_sharing() -> Iterator[None]:
    """Print no traceback of the thread that hands tensors in shared memory to other ranks.

    It loses its connection to a rank that ends while it receives one; why the rank has ended is told anyway.
    """
    show = sys.excepthook  # which `multiprocessing.resource_sharer` calls

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main or not isinstance(error, ConnectionError | EOFError):
            show(kind, error, trace)

    sys.excepthook = hook
    try:
        yield
    finally:
        sys.excepthook = show


class _RankFailed(RuntimeError):
    """A rank has sent a traceback, which is the text of this error."""


def _cause(process: Any, connection: Connection, count: int, told: str) -> str:
    who = f"{process.name} of {count} (process {process.pid})"
    if process.exitcode < 0:
        number = -process.exitcode
        memory = ", which the system also sends where memory runs out" if number == signal.SIGKILL else ""
        return f"{who} was ended by {signal_name(number)}{memory}"
    with suppress(OSError, EOFError):
        while connection.poll():
            told = connection.recv() or told
    return f"{who} failed" + (f":\n{told.rstrip()}\n" if told else f" with exit code {process.exitcode}")


def _join_group(rank: int, count: int, store: str) -> None:
    """Join the process group of all ranks."""
    from torch.distributed.distributed_c10d import _set_pg_timeout  # torch has no public name for it

    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK  # gloo asks for no password
    group = FileStore(store, count)
    to_meet = timedelta(seconds=MEET_SECONDS)
    dist.init_process_group("gloo", store=group, rank=rank, world_size=count, timeout=to_meet)
    _set_pg_timeout(LONG)


def _follow(rank: int, count: int, threads: int, store: str, leader: Connection) -> None:
    """The life of a rank: do what rank 0 says, until it closes the connection."""
    torch.set_num_threads(threads)
    has_joined = False
    trainer: Any = None
    threading.Thread(target=_end_with_rank_0, name="rank 0 lives", daemon=True).start()
    try:
        leader.send(None)
        _join_group(rank, count, store)
        has_joined = True
        while True:
            task, *arguments = leader.recv()
            if isinstance(task, Trainer):
                trainer = task
                (rows_from,) = arguments
                trainer.process = Rank(rank, count, trainer, rows_from)
                leader.send(None)
            else:
                getattr(trainer, task)(*arguments)
    except EOFError:
        os._exit(LOST)
    except Exception as error:
        lost = isinstance(error, ConnectionError) or (has_joined and "gloo" in str(error))
        with suppress(OSError):
            if not lost:
                advice = trainer and memory_advice(error, trainer.process)
                leader.send(advice or traceback.format_exc())
        os._exit(LOST if lost else 1)


def _end_with_rank_0() -> None:
    """End this process as soon as rank 0's has ended."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(LOST)
