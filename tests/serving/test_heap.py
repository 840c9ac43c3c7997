"""The heap of a server: all threads share one arena, so that free memory is reused and returned."""

import itertools
import platform
import re
from pathlib import Path

import psutil
import pytest

from serving.client import RetrievalClient
from tests.helpers.serving.operated import workers
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
