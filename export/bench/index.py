"""The index: what building it takes over bare hnswlib, and the curve that its search width was chosen on."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from rich.console import Console

from export import index
from export.bench.figures import Figures
from export.bench.interval import ratio
from protos.bundle import IndexParameters, Manifest
from protos.turns import Times
from protos.vectors import read_vectors
from train.config.bench import BenchConfig

NAMES = frozenset({"build_over_bare", "build_s", "build_bare_s"})


def measure(
    folder: Path, manifest: Manifest, threads: int, config: BenchConfig, console: Console
) -> tuple[dict[str, Any], Figures]:
    """The report and the figures of a bundle's index.

    Args:
        threads: of the builds; 0 takes all cores.
    """
    vectors = _sample(folder, manifest, config)
    parameters = manifest.index
    budget = threads or os.cpu_count() or 1
    with console.status(f"building the index over {len(vectors):,} items, {2 * config.build_rounds} times"):
        seconds = _in_turn(
            {
                "build_s": lambda: index.build_as(parameters, vectors, manifest.score, budget),
                "build_bare_s": lambda: _bare(vectors, parameters, budget),
            },
            config.build_rounds,
        )
    figures = Figures()
    for name, taken in seconds.items():
        figures.add(name, ratio([taken], [np.ones_like(taken)], config.seed))
    figures.add("build_over_bare", ratio([seconds["build_s"]], [seconds["build_bare_s"]], config.seed))
    report = {
        "items": len(vectors),
        "of": manifest.count,
        "dimension": manifest.dimension,
        "threads": budget,
        "rounds": config.build_rounds,
        "tuned": manifest.ann if "curve" in manifest.ann else None,
    }
    return report, figures


def _sample(folder: Path, manifest: Manifest, config: BenchConfig) -> index.Vectors:
    """So many of the bundle's vectors, in memory."""
    filled = manifest.score.kind != "cosine"
    vectors = read_vectors(folder, manifest.precision.vectors, manifest.count, manifest.dimension, filled)
    drawn = np.random.default_rng(config.seed).permutation(len(vectors))[: config.build_items]
    return np.ascontiguousarray(vectors[np.sort(drawn)], np.float32)


def _bare(vectors: index.Vectors, parameters: IndexParameters, threads: int) -> hnswlib.Index:
    """What anybody would write who has hnswlib alone."""
    graph = hnswlib.Index(parameters.space, vectors.shape[1])
    graph.init_index(
        len(vectors),
        M=parameters.m,
        ef_construction=parameters.ef_construction,
        random_seed=parameters.seed,
    )
    graph.add_items(vectors, np.arange(len(vectors)), threads)
    return graph


def _in_turn(builds: dict[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Name -> seconds (rounds, 1) of each build, in alternating order; the first of each is not counted."""
    taken: dict[str, list[list[float]]] = {name: [] for name in builds}
    for round_ in range(rounds + 1):
        for name in sorted(builds, reverse=bool(round_ % 2)):
            begun = time.perf_counter()
            builds[name]()
            taken[name].append([time.perf_counter() - begun])
    return {name: np.array(each[1:]) for name, each in taken.items()}
