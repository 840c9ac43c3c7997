"""How much memory a process holds, and has held at most."""

import re
import resource
import sys
from pathlib import Path

import psutil


def resident(process: int | None = None) -> int:
    """Bytes that a process holds in memory now, mapped files that it has read included."""
    return int(psutil.Process(process).memory_info().rss)


def proportional(process: int | None = None) -> int | None:
    """As `resident`, but of what several processes share a part; None where that is not known."""
    found = psutil.Process(process).memory_full_info()
    pss = getattr(found, "pss", None)
    return None if pss is None else int(pss)


def peak(process: int | None = None) -> int | None:
    """The most bytes that a process has held at a time, since it began or since `forget_peak`.

    On Linux this is the kernel's own mark of the process: what `getrusage` tells a process may be the peak
    of the one that has started it. Elsewhere it is known of this process alone, else None.
    """
    try:
        status = Path(f"/proc/{process or 'self'}/status").read_text()
        return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB elsewhere
        return None if process else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> bool:
    """Let the peak of this process begin anew; False where that cannot be done (proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
