"""The heap of a server: all threads share one arena, so that free memory is reused and returned."""

import itertools
import platform
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving import heap
from serving.client import RetrievalClient
from tests.helpers.serving.operated import workers
from tests.helpers.waiting import wait_until
from tests.serving.conftest import Start

ARENA_BYTES = 64 << 20  # glibc's HEAP_MAX_SIZE on 64-bit machines; an arena starts at a multiple of it


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_threads_of_a_worker_allocate_from_one_arena(start_server: Start) -> None:
    process, address = start_server("--workers", "2")
    with RetrievalClient(address) as client:
        for _ in range(20):
            assert client.search("bavuti xelike", k=3).hits
    for pid in workers(process, address):
        assert psutil.Process(pid).num_threads() > 2
        assert not _arenas(pid)


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A trimmer at work that seldom has to wait; gives the times at which it has trimmed."""
    times: list[float] = []
    real = heap.trim

    def trim() -> None:
        real()
        times.append(time.monotonic())

    monkeypatch.setattr(heap, "trim", trim)
    monkeypatch.setattr(heap, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(heap, "AGAIN_SECONDS", 0.5)
    measured = threading.Event()
    resident = heap.HeapTrimmer._resident

    def measure(trimmer: heap.HeapTrimmer) -> int:
        size = resident(trimmer)
        measured.set()
        return size

    monkeypatch.setattr(heap.HeapTrimmer, "_resident", measure)
    trimmer = heap.HeapTrimmer()
    trimmer.start()
    assert measured.wait(30)
    yield times
    trimmer.stop()


@pytest.mark.exhaustive
@pytest.mark.alone
def test_a_lasting_growth_is_trimmed_twice_and_then_no_more(
    trims: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What other tests left in this process may grow by megabytes meanwhile.
    monkeypatch.setattr(heap, "GROWTH_BYTES", 8 * heap.GROWTH_BYTES)
    lasting = []
    for count in (2, 4):
        lasting.append(b"x" * (4 * heap.GROWTH_BYTES))
        wait_until(lambda: len(trims) >= 2 * len(lasting))
        time.sleep(1.5)
        assert len(trims) == count


@pytest.mark.exhaustive
@pytest.mark.alone
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc trims")
def test_memory_that_was_in_use_at_a_trim_is_returned_later(trims: list[float]) -> None:
    before = psutil.Process().memory_info().rss
    blocks = [b"x" * 1000 + str(n).encode() for n in range(60_000)]  # larger than what Python pools itself
    last = blocks[-1]  # glibc returns by itself only what lies above the last block in use
    wait_until(lambda: len(trims) >= 1)
    assert psutil.Process().memory_info().rss > before + 5 * heap.GROWTH_BYTES
    del blocks
    wait_until(lambda: len(trims) == 2)
    assert psutil.Process().memory_info().rss < before + 3 * heap.GROWTH_BYTES, last


def _arenas(pid: int) -> list[str]:
    """The addresses of arenas other than the first, which is the process's heap.

    An arena's heap of 64 MiB is reserved as a whole, and its first part is made writable.
    """
    maps = Path(f"/proc/{pid}/maps").read_text()
    anonymous = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) 0+ 00:00 0\s*$", maps, re.MULTILINE)
    spans = [(int(start, 16), int(end, 16), access) for start, end, access in anonymous]
    return [
        f"{start:x}"
        for (start, end, access), (following, last, reserved) in itertools.pairwise(spans)
        if (access, reserved) == ("rw-p", "---p")
        if start % ARENA_BYTES == 0 and following == end and last >= start + ARENA_BYTES
    ]
