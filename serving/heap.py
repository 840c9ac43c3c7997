"""Keeps the heap of a process small: one arena for all threads, and free pages returned to the system.

glibc gives each thread a heap of its own ("arena"), and keeps the free pages in the middle of a heap. After
large requests and answers a worker would keep tens of megabytes in each arena. With one arena, any thread
reuses free pages (mallopt(3), M_ARENA_MAX), and `malloc_trim` returns whole free pages (malloc_trim(3)); what
that saves is in serving/RESULTS.md. With other C libraries, which lack these functions, nothing is done.
"""

import ctypes
import threading

import psutil

CHECK_SECONDS = 10.0  # between checks of the size of the process
GROWTH_BYTES = 8 << 20  # since the last trim, or since the process was smallest; the heap is then trimmed
AGAIN_SECONDS = 30.0  # after a trim that leaves the process grown, until one more trim
M_ARENA_MAX = -8  # from malloc.h


def use_one_arena() -> None:
    """Let all threads of this process, and of its forks, allocate from one heap; glibc only.

    Call it before threads are started, because existing arenas stay in use.
    """
    function = getattr(ctypes.CDLL(None), "mallopt", None)
    if function is not None:
        function(M_ARENA_MAX, 1)


def trim() -> None:
    """Return the free pages of the heap to the system; glibc only.

    It takes some milliseconds, in which other threads may have to wait for memory.
    """
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is not None:
        function.argtypes = [ctypes.c_size_t]
        function(0)


class HeapTrimmer:
    """A thread that trims the heap whenever the process has grown."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heap-trimmer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and return when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        """Check the size now and then, and trim when it has grown since the last trim.

        A trim that leaves the process grown is repeated once, because what was in use then, such as a large
        answer, may be free later. What remains after that, such as a larger bundle, is the process's size.
        """
        basis = self._resident()
        again = False
        while not self._stop.wait(AGAIN_SECONDS if again else CHECK_SECONDS):
            size = self._resident()
            if again or size > basis + GROWTH_BYTES:
                trim()
                size = self._resident()
                again = size > basis + GROWTH_BYTES
                basis = size
            basis = min(basis, size)

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)
