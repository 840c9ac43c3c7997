"""What a server takes of its machine: one arena of its heap for all threads, and descriptors."""

import contextlib
import itertools
import json
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.serving.operated import workers
from tests.serving.conftest import ROOT, Start
from twinspire.serving import heap
from twinspire.serving.client import RetrievalClient
from twinspire.serving.descriptors import fitting

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


@pytest.mark.exhaustive
def test_a_lasting_growth_is_trimmed_twice_and_then_no_more() -> None:
    assert _trimmed("keep_blocks") == [2, 4]


@pytest.mark.exhaustive
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc trims")
def test_memory_that_was_in_use_at_a_trim_is_returned_later() -> None:
    in_use, freed = _trimmed("free_blocks")
    assert in_use > 5 * heap.GROWTH_BYTES
    assert freed < heap.GROWTH_BYTES


def _trimmed(scenario: str) -> list[int]:
    """Run a scenario of `trimmed_process` in a process of its own; returns the numbers that it prints."""
    command = [sys.executable, "-m", "tests.helpers.serving.trimmed_process", scenario]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found


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


CODE = """
import resource
from twinspire.serving.descriptors import fitting
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
assert fitting(10, 10, "--connections") == 10
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, cwd=ROOT)


def test_a_worker_has_fewer_connections_than_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (600, 600))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert fitting(344, 256, "--connections") == 344
    assert not caplog.text
    assert fitting(10, 1000, "--connections") == 1
    assert fitting(1024, 256, "--connections") == 344
    assert "--connections is 344 and not 1024" in caplog.text
    assert "ulimit -Hn 1280" in caplog.text


def test_a_service_answers_beside_more_idle_connections_than_its_soft_limit(start_server: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"the hard limit of descriptors is {hard}")
    flags = ("--connections-per-address", "1000", "--first-call-seconds", "600")
    process, address = start_server(*flags, descriptors=256)
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))  # of this process, for its ends
        for _ in range(500):
            stack.enter_context(socket.create_connection((host, int(port)), 10))
        with RetrievalClient(address) as client:
            for _ in range(5):
                assert client.search("bavuti", timeout=60.0).hits
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert len(log.splitlines()) < 50
