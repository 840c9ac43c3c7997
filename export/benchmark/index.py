"""The index: time to build it against plain hnswlib, and the curve on which its ef_search was chosen."""

from collections.abc import Callable
from typing import Any

import hnswlib
import numpy as np

from twinspire.export import ann
from twinspire.export.benchmark.estimate import percentile, ratio
from twinspire.export.benchmark.figures import Figures, MeasuredBundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.system.cores import thread_count
from twinspire.protos.system.timing import in_rounds
from twinspire.protos.vectors import vectors_of
from twinspire.train.progress import PROGRESS

BUILDS = ("build_s", "build_bare_s")


def names(bundle: MeasuredBundle) -> set[str]:
    """The names of all figures of `measure`."""
    return {*BUILDS, "build_over_bare"}


def measure(bundle: MeasuredBundle, figures: Figures) -> dict[str, Any]:
    """Build the index and plain hnswlib in turn; returns the part of the report, and adds the figures."""
    config, manifest = bundle.experiment.bench, bundle.manifest
    threads = thread_count(bundle.experiment.index.threads)
    mapped = vectors_of(bundle.folder, manifest)
    drawn = np.random.default_rng(config.seed).permutation(len(mapped))[: config.build_items]
    vectors = np.ascontiguousarray(mapped[np.sort(drawn)], np.float32)  # in memory
    builds: dict[str, Callable[[], object]] = {
        "build_s": lambda: ann.build_graph(manifest.index, vectors, manifest.score, threads),
        "build_bare_s": lambda: _bare(vectors, manifest.index, threads),
    }
    note = f"building the index over {len(vectors):,} items, {2 * (config.build_rounds + 1)} times"
    with PROGRESS.status(note):
        taken = in_rounds(builds, config.build_rounds)
    own, bare = (np.array(taken[name])[:, None] for name in BUILDS)  # (rounds, 1)
    figures.add("build_over_bare", ratio(own, bare, config.seed))
    for name, seconds in zip(BUILDS, (own, bare), strict=True):
        figures.add(name, percentile(seconds, 50, config.seed))
    return {
        "items": len(vectors),
        "of": manifest.count,
        "dimension": manifest.dimension,
        "threads": threads,
        "rounds": config.build_rounds,
        "tuned": manifest.ann if "curve" in manifest.ann else None,
    }


def _bare(vectors: ann.Vectors, chosen: IndexParameters, threads: int) -> object:
    """The index by plain hnswlib."""
    graph = hnswlib.Index(chosen.space, vectors.shape[1])
    graph.init_index(
        len(vectors), M=chosen.m, ef_construction=chosen.ef_construction, random_seed=chosen.seed
    )
    graph.add_items(vectors, np.arange(len(vectors)), threads)
    return graph
