"""The graph over a catalogue's vectors."""

import os
import time
from pathlib import Path
from typing import Any

from export import index
from export.scale.measuring import memory
from export.scale.measuring.subject import index_config, mapped
from protos import bundle
from train.command import PROGRESS


def build(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Build the graph on all cores, and write it."""
    vectors, config = mapped(folder / bundle.VECTORS), index_config(seed)
    before, own_peak = memory.resident(), memory.forget_peak()
    with PROGRESS.status(f"a graph over {items:,} items"):
        begun = time.perf_counter()
        graph = index.build(vectors, config)
        seconds = time.perf_counter() - begun
        peak = memory.peak()
        index.save(graph, folder / bundle.INDEX)
    return {
        "seconds": seconds,
        "threads": config.threads or os.cpu_count(),
        "m": config.m,
        "ef_construction": config.ef_construction,
        "before_bytes": before,
        "peak_bytes": peak,
        "peak_is_own": own_peak,
        "file_bytes": (folder / bundle.INDEX).stat().st_size,
        "vector_bytes": vectors.nbytes,
    }
