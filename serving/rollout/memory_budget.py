"""The memory that the machine leaves for a new bundle, and the bound on a process that tries it.

A new bundle is loaded while the old one still answers, and each worker loads its own. So all workers need the
memory at once; the old bundle is freed later.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MIB = 1 << 20
GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
OUT_OF_MEMORY_SCORE = Path("/proc/self/oom_score_adj")


@contextmanager
def limit_private_memory(more: int) -> Iterator[None]:
    """Let this process allocate at most `more` bytes within the block; an allocation beyond fails.

    It has no effect where the system does not count a process's private memory (other systems than Linux).
    """
    used = getattr(psutil.Process().memory_info(), "data", None)
    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if used is not None:
        most = min(each for each in (soft, hard, used + more) if each != resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def prefer_for_oom_kill() -> None:
    """Let the kernel end this process before all others if the machine runs out of memory."""
    with suppress(OSError):  # not Linux, or not permitted
        OUT_OF_MEMORY_SCORE.write_text("1000")


def available(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that this process may still allocate, by the machine and its control groups (version 2)."""
    left, inner = [int(psutil.virtual_memory().available)], ""
    with suppress(OSError):
        rows = membership.read_text().splitlines()
        inner = next((row.removeprefix("0::/") for row in rows if row.startswith("0::")), "")
    for folder in (groups / inner, *(groups / inner).parents):  # in a container only `groups` is there
        with suppress(OSError, ValueError):  # no limit is the word `max`
            most, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            left.append(max(0, most - used + int(stat.get("inactive_file", 0))))
    return min(left)
