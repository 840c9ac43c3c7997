"""Returns memory that is free in the heap to the system, some time after a load that needed it.

glibc keeps what has been freed in the middle of its heaps. After large requests and answers a worker would
keep tens of megabytes that nothing uses. `malloc_trim` returns whole free pages (malloc_trim(3)). Other C
libraries have no such function; then nothing is done.
"""

import ctypes
import threading
from collections.abc import Callable

import psutil

CHECK_SECONDS = 10.0  # between two looks at the size of the process
GROWTH_BYTES = 8 << 20  # by which it must have grown since the last trim


class HeapTrimmer:
    """A thread that trims the heap whenever the process has grown."""

    def __init__(self) -> None:
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._process = psutil.Process()
        self._size = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heap-trimmer", daemon=True)

    def start(self) -> None:
        """Trim from now on."""
        self._size = self._resident()
        if self._trim is not None:
            self._thread.start()

    def stop(self) -> None:
        """Trim no more, and return when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(CHECK_SECONDS):
            if self._trim and self._resident() > self._size + GROWTH_BYTES:
                self._trim(0)
                self._size = self._resident()

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)
