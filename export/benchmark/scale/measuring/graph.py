"""The steps `build`, `search` and `load`: a graph over a catalogue's vectors, exact search, and a bundle.

`export` must not import `serving`: processes of the service verify, load and warm up the bundle.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import torch

from export import ann
from export.benchmark.isolated_process import ask_of_bundle
from export.benchmark.scale.measuring import settings
from protos import bundle
from protos.bundle import Manifest
from protos.features import Schema
from protos.system import memory
from protos.system.cores import thread_count
from train.progress import PROGRESS

SECONDS = 20.0  # time limit of each kind of search
LOADS = 3  # the median counts
FILES = (bundle.QUERY_TOWER, bundle.ITEM_TOWER, bundle.VECTORS, bundle.INDEX)


def build(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Build the graph on all cores, and write it."""
    vectors, config = _mapped(folder), settings.index_config(seed)
    own_peak = memory.reset_peak()
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
        "peak_bytes": peak,
        "peak_is_own": own_peak,
        "file_bytes": (folder / bundle.INDEX).stat().st_size,
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
        "queries": len(measuring),
    }
    searches: dict[str, Callable[[Any], object]] = {
        "graph": partial(ann.approximate, graph, k=settings.K, ef=ef),
        "exact": partial(ann.exact, vectors=vectors, k=settings.K),
    }
    torch.set_num_threads(1)
    for way, call in searches.items():
        for name, batch in ((way, 1), (f"{way}_batch", settings.BATCH)):
            with PROGRESS.status(f"timing: {name.replace('_', ' ')}"):
                found[name] = settings.timed(call, measuring, batch, SECONDS)
    return found


def _mapped(folder: Path) -> Any:
    """The vectors (N, D), mapped copy-on-write: torch warns of arrays that are not writable."""
    return np.load(folder / bundle.VECTORS, mmap_mode="c", allow_pickle=False)


def load(folder: Path, items: int, seed: int) -> dict[str, Any]:
    """Write the bundle and load it a few times."""
    with PROGRESS.status(f"a bundle of {items:,} items"):
        made = write(folder, items, seed)
    loads = []
    for n in range(LOADS):
        with PROGRESS.status(f"loading it, {n + 1} of {LOADS}"):
            found = ask_of_bundle(made, {"task": "load"})
            loads.append({"seconds": found.pop("load_s"), **found})
    medians: dict[str, float | None] = {}
    for name in ("seconds", "rss_bytes", "pss_bytes"):
        known = [each[name] for each in loads if each[name] is not None]  # a system may not know a value
        medians[name] = statistics.median(known) if known else None
    return {
        **medians,
        "loads": loads,
    }


def write(folder: Path, items: int, seed: int) -> Path:
    """Write a bundle of the files of the other steps; all items are equally popular."""
    ef_search = json.loads((folder / "search.json").read_bytes())["ef_search"]
    examples = json.loads((folder / settings.EXAMPLES).read_bytes())

    def fill(draft: Path) -> None:
        for name in FILES:
            os.link(folder / name, draft / name)
        lines = (folder / settings.ITEMS).read_text(encoding="utf-8").splitlines()[1:]
        ids, texts = zip(*(line.split("\t") for line in lines), strict=True)
        content = {"ids": ids, "popularity": [1 / items] * items, "fields": {"text": texts}}
        (draft / bundle.ITEMS).write_text(json.dumps(content))

    manifest = Manifest(
        name="scale",
        run_id="0" * 32,
        git_commit="",
        dataset={"kind": "synthetic", "items": items, "seed": seed},
        split_hash="0" * 64,
        dimension=settings.DIMENSION,
        count=items,
        schema=Schema(settings.FEATURES, settings.FEATURES),
        index=ann.parameters(settings.index_config(seed), ef_search),
        display_fields=("text",),
        examples=tuple({"text": text} for text in examples),
        quality={},
        parity={},
        ann={},
        latency={},
    )
    return bundle.write(folder / "bundles", manifest, fill)
