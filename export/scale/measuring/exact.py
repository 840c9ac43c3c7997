"""int8 vectors searched exactly, by a process that holds nothing else, and held against float32."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from export.scale.measuring import memory
from export.scale.measuring.quantised import Int8Search, Vectors
from export.scale.measuring.subject import CODES, DIMENSION, NEAREST, QUERY_VECTORS, SCALES, K
from export.scale.measuring.timing import Timed, timed
from train.command import PROGRESS

BATCH = 32
SECONDS = 30.0  # that each way to search may be timed for


def exact(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Search one query at a time and in batches, on one thread and on all."""
    queries, nearest = np.load(folder / QUERY_VECTORS), np.load(folder / NEAREST)
    before, cores = memory.resident(), os.cpu_count() or 1
    codes = np.memmap(folder / CODES, np.int8, "r", shape=(items, DIMENSION))
    search = Int8Search(np.asarray(codes), np.fromfile(folder / SCALES, np.float32))
    with PROGRESS.status(f"{items:,} vectors, {len(queries)} queries"):
        best = search.search(queries, K, cores)
    same = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(best.rows, nearest, strict=True)]
    found: dict[str, Any] = {
        "k": K,
        "dimension": DIMENSION,
        "queries": len(queries),
        "threads": cores,
        "recall": float(np.mean(same)),
        "before_bytes": before,
        "rss_bytes": memory.resident(),
    }
    for threads in dict.fromkeys((1, cores)):
        for batch in (1, BATCH):
            groups = [queries[at : at + batch] for at in range(0, len(queries), batch)]
            name = f"{'one_thread' if threads == 1 else 'all_threads'}_b{batch}"
            with PROGRESS.status(f"timing: {batch} at a time, {threads} thread{'s' * (threads > 1)}"):
                found[name] = _timed(search, groups, threads).told(batch)
    return found


def _timed(search: Int8Search, groups: list[Vectors], threads: int) -> Timed:
    return timed(lambda n: search.search(groups[n], K, threads), len(groups), SECONDS)
