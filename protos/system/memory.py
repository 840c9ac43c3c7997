"""Memory of this process, now and at its peak."""

import re
import resource
import sys
from pathlib import Path

import psutil


def resident() -> int:
    """Bytes in memory (RSS), mapped files that the process has read included."""
    return int(psutil.Process().memory_info().rss)


def proportional() -> int | None:
    """Bytes in memory, of shared memory only this process's share (PSS); None where that is unknown."""
    pss = getattr(psutil.Process().memory_full_info(), "pss", None)
    return None if pss is None else int(pss)


def peak() -> int:
    """The most bytes in memory since the process began.

    On Linux this is the kernel's mark of the process: `getrusage` may return the peak of the parent process.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
