"""The steps `build` and `search`: the graph over a catalogue's vectors, beside exact search."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import torch

from export import ann
from export.benchmark.scale.measuring import settings
from protos import bundle
from protos.system import memory
from protos.system.cores import thread_count
from train.progress import PROGRESS

SECONDS = 20.0  # time limit of each kind of search


def build(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Build the graph on all cores, and write it."""
    vectors, config = _mapped(folder), settings.index_config(seed)
    before, own_peak = memory.resident(), memory.reset_peak()
    with PROGRESS.status(f"a graph over {items:,} items"):
        begun = time.perf_counter()
        graph = ann.build(vectors, config)
        seconds = time.perf_counter() - begun
        peak = memory.peak()
        ann.save(graph, folder / bundle.INDEX)
    return {
        "seconds": seconds,
        "threads": thread_count(config.threads),
        "m": config.m,
        "ef_construction": config.ef_construction,
        "before_bytes": before,
        "peak_bytes": peak,
        "peak_is_own": own_peak,
        "file_bytes": (folder / bundle.INDEX).stat().st_size,
        "vector_bytes": vectors.nbytes,
    }


def search(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Choose ef_search on every other query; measure recall and time on the others, on one thread."""
    vectors, queries = _mapped(folder), np.load(folder / settings.QUERY_VECTORS)
    choosing, measuring = (np.ascontiguousarray(queries[half::2]) for half in (0, 1))
    graph = hnswlib.Index(ann.SPACE, settings.DIMENSION)
    graph.load_index(str(folder / bundle.INDEX))
    with PROGRESS.status(f"ef_search for recall@{settings.K} of {settings.TARGET}"):
        tuned = ann.tune(graph, vectors, choosing, settings.index_config(seed))
        ef = tuned.ef_search
        recalls = ann.recalls(
            ann.approximate(graph, measuring, settings.K, ef), vectors, measuring, settings.K
        )
    found: dict[str, Any] = {
        "k": settings.K,
        "target": settings.TARGET,
        "ef_search": ef,
        "reached": tuned.reached,
        "recall": float(recalls.mean()),
        "standard_error": float(recalls.std() / len(recalls) ** 0.5),
        "queries": len(measuring),
        "curve": list(tuned.curve),
    }
    through_graph = partial(ann.approximate, graph, k=settings.K, ef=ef)
    compared = partial(ann.exact, vectors=vectors, k=settings.K)
    searches = {
        "graph": (through_graph, 1),
        "graph_batch": (through_graph, settings.BATCH),
        "exact": (compared, 1),
        "exact_batch": (compared, settings.BATCH),
    }
    torch.set_num_threads(1)
    for name, (call, batch) in searches.items():
        with PROGRESS.status(f"timing: {name.replace('_', ' ')}"):
            found[name] = settings.timed(call, measuring, batch, SECONDS)
    return found


def _mapped(folder: Path) -> Any:
    """The vectors (N, D), mapped copy-on-write: torch warns of arrays that are not writable."""
    return np.load(folder / bundle.VECTORS, mmap_mode="c", allow_pickle=False)
