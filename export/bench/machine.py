"""Where and with what a latency was measured: it means little anywhere else."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "onnxruntime", "numpy", "hnswlib")
BUSY = 0.95  # share of its time on a processor; below it others have used the machine


def machine() -> dict[str, Any]:
    """Processor, number of cores, and system; what a comparison with an earlier run needs to be the same."""
    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as file:
            models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        name = models[0] if models else name
    except OSError:
        pass
    return {"processor": name, "cores": os.cpu_count(), "system": platform.system()}


def versions() -> dict[str, str]:
    """Of Python, and of what does the work."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def cores() -> int:
    """What a thread budget of 0 means to torch."""
    return os.cpu_count() or 1


def on_processor(document: Mapping[str, Any]) -> float:
    """The least share of its time that what ran on one thread had a processor, in any part of a bench."""
    parts = [document.get("towers", {}), *document.get("retriever", {}).get("batches", {}).values()]
    shares = [part.get("on_processor") for part in parts]
    return min((share for share in shares if share is not None), default=1.0)
