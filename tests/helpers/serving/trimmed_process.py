"""A process with a `HeapTrimmer` of short waits; it grows, and prints what the trimmer did as JSON.

    python -m tests.helpers.serving.trimmed_process keep_blocks

It is a process of its own because the trimmer looks at the size of its whole process.
"""

import json
import sys
import threading
import time

import psutil

from tests.helpers.waiting import wait_until
from twinspire.serving import heap

BLOCK = 4 * heap.GROWTH_BYTES


def keep_blocks(trims: list[float]) -> list[int]:
    """The numbers of trims after one block of memory that stays in use, and after another."""
    blocks, counts = [], []
    for _ in range(2):
        blocks.append(b"x" * BLOCK)
        wait_until(lambda: len(trims) >= 2 * len(blocks))
        time.sleep(3 * heap.AGAIN_SECONDS)
        counts.append(len(trims))
    return counts


def free_blocks(trims: list[float]) -> list[int]:
    """Growth in bytes since the start: after a trim with blocks in use, and after one with them freed."""
    heap.AGAIN_SECONDS = 2.0  # time to free the blocks between the two trims
    before = _resident()
    blocks = [b"x" * 1000 + str(n).encode() for n in range(60_000)]  # larger than what Python pools itself
    last = blocks[-1]  # glibc returns by itself only what lies above the last block in use
    wait_until(lambda: len(trims) >= 1)
    in_use = _resident()
    del blocks
    wait_until(lambda: len(trims) >= 2)
    after = _resident()
    del last
    return [in_use - before, after - before]


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


class _SignallingTrimmer(heap.HeapTrimmer):
    """A trimmer that sets `measured` after its first measurement."""

    measured = threading.Event()

    def _resident(self) -> int:
        size = super()._resident()
        self.measured.set()
        return size


def _main() -> None:
    times: list[float] = []
    trim = heap.trim

    def noted_trim() -> None:
        trim()
        times.append(time.monotonic())

    heap.trim = noted_trim
    heap.CHECK_SECONDS, heap.AGAIN_SECONDS = 0.05, 0.5
    trimmer = _SignallingTrimmer()
    trimmer.start()
    assert trimmer.measured.wait(30), "the trimmer has not measured the process"
    json.dump({"keep_blocks": keep_blocks, "free_blocks": free_blocks}[sys.argv[1]](times), sys.stdout)
    trimmer.stop()


if __name__ == "__main__":
    _main()
