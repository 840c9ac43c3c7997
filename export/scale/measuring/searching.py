"""Graph and exact search, on one thread, on queries that the search width was not chosen on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import torch

from export import index
from export.scale.measuring.subject import DIMENSION, QUERY_VECTORS, TARGET, K, index_config, mapped
from export.scale.measuring.timing import timed
from protos import bundle
from train.command import PROGRESS

BATCH = 32
WIDTHS = (100, 1_000)  # items that a search is asked for where filters will leave K of them
SECONDS = 20.0  # that each way to search may be timed for

Vectors = index.Vectors
Search = Callable[[Vectors], object]


def search(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Choose the search width on every other query, and measure recall and time on the others."""
    vectors, queries = mapped(folder / bundle.VECTORS), np.load(folder / QUERY_VECTORS)
    choosing, asked = (np.ascontiguousarray(queries[half::2]) for half in (0, 1))
    graph = hnswlib.Index(index.SPACE, DIMENSION)
    graph.load_index(str(folder / bundle.INDEX))
    with PROGRESS.status(f"a search width that finds {TARGET:.0%} of the nearest {K}"):
        tuned = index.tune(graph, vectors, choosing, index_config(seed))
        ef = tuned.ef_search
        each = index.recalls(index.approximate(graph, asked, K, ef), vectors, asked, K)
    found = {
        "k": K,
        "target": TARGET,
        "ef_search": ef,
        "reached": tuned.reached,
        "recall": float(each.mean()),
        "standard_error": float(each.std() / len(each) ** 0.5),
        "queries": len(asked),
        "curve": list(tuned.curve),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return found | _times(graph, vectors, asked, ef)
    finally:
        torch.set_num_threads(before)


def _times(graph: hnswlib.Index, vectors: Vectors, asked: Vectors, ef: int) -> dict[str, Any]:
    def through_graph(queries: Vectors, k: int = K) -> object:
        return index.approximate(graph, queries, k, ef)

    def exactly(queries: Vectors) -> object:
        return index.exact(queries, vectors, K)

    ways: dict[str, tuple[Search, int]] = {
        "graph": (through_graph, 1),
        "graph_batch": (through_graph, BATCH),
        "exact": (exactly, 1),
        "exact_batch": (exactly, BATCH),
    }
    for width in WIDTHS:
        if width <= len(vectors):
            ways[f"graph_{width}"] = (partial(through_graph, k=width), 1)
    found = {}
    for name, (way, batch) in ways.items():
        with PROGRESS.status(f"timing: {name.replace('_', ' ')}"):
            groups = [asked[at : at + batch] for at in range(0, len(asked) - batch + 1, batch)]
            found[name] = timed(_of(way, groups), len(groups), SECONDS).told(batch)
    return found


def _of(way: Search, groups: list[Vectors]) -> Callable[[int], object]:
    return lambda n: way(groups[n])
