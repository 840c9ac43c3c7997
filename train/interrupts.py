"""Ctrl-C and SIGTERM end a command of `train` and `export` within seconds, in every stage.

    with answering():  # in the main thread, around a command
        with before_leaving(mark_run_as_killed):
            ...

Python runs the handler of a signal between two of its own instructions. A call into numpy, torch, hnswlib or
ONNX Runtime is one instruction, and may take minutes. So a second thread learns of each signal at once, from
the descriptor that the interpreter's C handler writes to (`signal.set_wakeup_fd`). If the main thread has not
ended `LEAVE_AFTER_SECONDS` later, that thread calls what `before_leaving` has registered, and ends the
process. What the command had written is whole: files are renamed when they are complete, and locks end with
the process.

A call that holds the interpreter's lock delays that thread, too: those of `scipy.linalg` do, those of numpy,
scipy.sparse, torch, polars, hnswlib and ONNX Runtime do not.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from twinspire.protos.cli import Terminated

LEAVE_AFTER_SECONDS = 3.0  # from a signal on, in which the main thread may end by itself
LAST_SECONDS = 1.5  # then, for what `before_leaving` has registered, such as a call of MLflow's server
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ANSWERED = b"\0"  # comes behind the numbers of the signals that were answered
SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it

Action = Callable[[], str | None]


class _Watch:
    """Waits for signals on a thread of its own."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, name="interrupts", daemon=True).start()

    def acknowledge(self) -> None:
        """The main thread has answered the signals so far, and will end in its own time."""
        os.write(self._write, ANSWERED)

    def close(self) -> None:
        """Receive no more signals. The process still ends for one that was received before."""
        signal.set_wakeup_fd(self._previous)
        os.close(self._write)

    def _wait(self) -> None:
        number, due = 0, 0.0  # the signal to end for, and when, by the monotonic clock
        while True:
            left = max(0.0, due - time.monotonic()) if number else None
            if not select.select([self._read], [], [], left)[0]:
                _leave(number)
            received = os.read(self._read, 64)
            for each in received:
                if each in SIGNALS and not number:
                    number, due = each, time.monotonic() + LEAVE_AFTER_SECONDS
                elif each == ANSWERED[0]:
                    number = 0
            if not received:
                break
        os.close(self._read)
        if number:
            time.sleep(max(0.0, due - time.monotonic()))
            _leave(number)


_watch: _Watch | None = None
_actions: list[Action] = []


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """End the process soon after SIGINT or SIGTERM, whatever it is doing.

    SIGTERM raises `Terminated` in the main thread, as SIGINT raises KeyboardInterrupt. A signal that this
    process ignores, as SIGINT of a job that a script starts with `&`, stays ignored. In any other thread this
    does nothing.
    """
    global _watch  # noqa: PLW0603 (a process has one)
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch = _Watch()
    default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if default:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if default:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        watch, _watch = _watch, None
        watch.close()


@contextlib.contextmanager
def before_leaving(action: Action) -> Iterator[None]:
    """Call `action` in this block before the process is ended while the main thread cannot do anything.

    Args:
        action: runs on another thread; returns a line to print, or None.
    """
    _actions.append(action)
    try:
        yield
    finally:
        _actions.remove(action)


def acknowledge() -> None:
    """Say that the last signal was answered: the process is not ended for it."""
    if _watch is not None:
        _watch.acknowledge()


def interruption(number: int) -> type[KeyboardInterrupt]:
    """The exception that a signal raises."""
    return Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _leave(number: int) -> None:
    """End the process now, with the exit code of a shell: 128 and the number of the signal."""

    def act() -> None:
        for action in reversed(_actions):
            with contextlib.suppress(Exception):  # the process ends in any case
                line = action()
                if line:
                    lines.append(line)

    lines: list[str] = []
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(LAST_SECONDS)
    show = SHOW_CURSOR if sys.stderr.isatty() else ""
    told = "\n".join(lines) or ("terminated" if number == signal.SIGTERM else "interrupted")
    told += "\nthe process ended before its threads did; what they computed is to be done again"
    with contextlib.suppress(OSError):
        os.write(2, f"{show}\n{told}\n".encode())
    os._exit(128 + number)
