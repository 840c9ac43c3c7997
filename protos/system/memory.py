"""Memory of a process, now and at its peak."""

import re
import resource
import sys
from pathlib import Path

import psutil


def resident(process: int | None = None) -> int:
    """Bytes in memory (RSS), mapped files that the process has read included; of this process by default."""
    return int(psutil.Process(process).memory_info().rss)


def proportional(process: int | None = None) -> int | None:
    """As `resident`, with its share of shared memory (PSS); None where that is unknown."""
    pss = getattr(psutil.Process(process).memory_full_info(), "pss", None)
    return None if pss is None else int(pss)


def peak(process: int | None = None) -> int | None:
    """The most bytes in memory since the process began or `reset_peak` was called.

    On Linux this is the kernel's mark of the process: `getrusage` may return the peak of the parent process.
    Elsewhere it is known of this process only, else None.
    """
    try:
        status = Path(f"/proc/{process or 'self'}/status").read_text()
        return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
        return None if process else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> bool:
    """Reset the peak of this process; False where the system cannot (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
