"""Returns memory that is free in the heap to the system, some time after a load that needed it.

glibc keeps what has been freed in the middle of its heaps. After large requests and answers a worker would
keep tens of megabytes that nothing uses. `malloc_trim` returns whole free pages (malloc_trim(3)). Other C
libraries have no such function; then nothing is done.
"""

import ctypes
import threading

import psutil

CHECK_SECONDS = 10.0  # between two looks at the size of the process
GROWTH_BYTES = 8 << 20  # above its smallest size, from which on the process is trimmed
LEAST_FREED = 1 << 20  # bytes; a trim that frees less is not repeated for `PAUSE_SECONDS`
PAUSE_SECONDS = 60.0


def trim() -> None:
    """Return the free pages of the heap to the system, where glibc can.

    It takes some milliseconds, for which other threads that allocate memory may have to wait.
    """
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is not None:
        function.argtypes = [ctypes.c_size_t]
        function(0)


class HeapTrimmer:
    """A thread that trims the heap while the process is larger than it has been."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heap-trimmer", daemon=True)

    def start(self) -> None:
        """Trim from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Trim no more, and return when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        least = self._resident()
        pause = CHECK_SECONDS
        while not self._stop.wait(pause):
            pause = CHECK_SECONDS
            before = self._resident()
            if before > least + GROWTH_BYTES:
                trim()
                after = self._resident()
                if before - after < LEAST_FREED:
                    pause = PAUSE_SECONDS
                before = after
            least = min(least, before)

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)
