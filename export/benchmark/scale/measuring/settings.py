"""What the steps of a size share: file names, features, the settings of towers and graph, and timing."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from protos.features import FeatureSpec, TextFeature
from protos.system.timing import PASSES, median_of_passes, shortest_call
from train.config import IndexConfig
from train.config.towers import BagTower

ITEMS = "items.tsv"
QUERY_VECTORS = "query_vectors.npy"
EXAMPLES = "examples.json"  # texts of the first queries
CODES, SCALES = "codes.i8", "scales.f32"  # raw numbers, row after row
NEAREST = "nearest.npy"  # rows that are nearest to each query in float32

DIMENSION = 64
TARGET = 0.98  # recall
K = 10  # items of an answer
BATCH = 32  # queries
SAMPLE = 20_000  # items, at most, of which the towers take IDF and latent directions
QUERIES = 2_000  # half for choosing ef_search, half for measuring
FEATURES: dict[str, FeatureSpec] = {"text": TextFeature("text", "text", max_length=128)}
TOWER = BagTower("bag", dimension=DIMENSION, latent=DIMENSION // 4).with_english_defaults()
MIN_CALLS = 10  # timed in each pass despite the time limit


def index_config(seed: int) -> IndexConfig:
    """Settings of every graph; it is built on all cores."""
    return IndexConfig(m=16, ef_construction=200, recall_target=TARGET, k=K, seed=seed, threads=0)


def timed(search: Callable[[Any], object], queries: Any, batch: int, seconds: float) -> dict[str, Any]:
    """Time searches with `batch` of the query vectors (N, D) at a time, each the median of several passes.

    An incomplete batch at the end is left out. Fewer calls are timed where they take longer than about
    `seconds`.

    Returns:
        `p50_us` and `p99_us` of a call, `queries_per_s`, and `on_processor`: processor time of the process
        over elapsed time, above 1 with several threads.
    """
    calls = [partial(search, queries[n : n + batch]) for n in range(0, len(queries) - batch + 1, batch)]
    count = min(len(calls), max(MIN_CALLS, int(seconds / PASSES / shortest_call(calls))))
    began, on_processor = time.perf_counter(), time.process_time()
    taken = median_of_passes({"search": calls}, 1, count, turn_length=count, settling=0, warm_up=0)["search"]
    share = (time.process_time() - on_processor) / (time.perf_counter() - began)
    return {
        "batch": batch,
        "calls": taken.size,
        "passes": PASSES,
        "p50_us": float(np.percentile(taken, 50)),
        "p99_us": float(np.percentile(taken, 99)),
        "queries_per_s": 1e6 * batch / float(taken.mean()),
        "on_processor": share,
    }
