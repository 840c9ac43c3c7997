"""The retriever beside its parts, and the time to load a bundle, in processes of `serving`."""

from typing import Any

import numpy as np

from export.benchmark.figures import Figures, MeasuredBundle
from export.benchmark.isolated_process import ask_of_bundle
from export.latency.estimate import percentile, ratio
from export.latency.tower_latency import latency_summary
from train.progress import PROGRESS

BATCHES = (1, 32)
K = 10  # items in an answer
CALLS = 3  # calls for each call of a tower, since the ratio is close to 1
SECONDS = 10.0  # time limit of each batch size
WHOLE = "retriever"
BARE = ("session_run", "bare_search")
# Part -> start of the names of its figures.
PARTS = {WHOLE: WHOLE} | {name: f"{WHOLE}_{name}" for name in (*BARE, "pair", "prepare", "encode", "nearest")}
# Share of the retriever's time -> whether it is of processor time, and the parts that it is over.
SHARES = {
    "retriever_share": (False, BARE),
    "retriever_pair_share": (False, ("pair",)),
    "retriever_cpu_share": (True, BARE),
}
STATISTICS = ("p50_us", "p95_us", "p99_us", "mean_us", "queries_per_s")
LOADING = ("load_s", "start_s")


def names(bundle: MeasuredBundle) -> set[str]:
    """The names of all figures of `measure`."""
    return {
        *LOADING,
        *(f"{start}_b{batch}_{each}" for start in PARTS.values() for batch in BATCHES for each in STATISTICS),
        *(f"{share}_b{batch}" for share in SHARES for batch in BATCHES),
    }


def measure(bundle: MeasuredBundle, figures: Figures) -> dict[str, Any]:
    """Measure on one thread; returns the part of the report, and adds the figures.

    Raises:
        BundleDamaged: the bundle cannot be measured.
    """
    config, batches = bundle.experiment.bench, {}
    fewest = min(config.fewest * CALLS, config.iterations)
    request = {"task": "retriever", "k": K, "batches": BATCHES, "seconds": SECONDS}
    request |= {"iterations": config.iterations * CALLS, "fewest": fewest}
    with PROGRESS.status("the retriever beside its parts, and load time"):
        found = ask_of_bundle(bundle.folder, request)
        loads = [ask_of_bundle(bundle.folder, {"task": "load"}) for _ in range(config.loads)]
    for batch in BATCHES:
        wall, cpu = (
            {name: np.array(turns) for name, turns in found[clock][str(batch)].items()}
            for clock in ("wall_us", "cpu_us")
        )
        parts = {}
        for name, start in PARTS.items():
            summary = latency_summary(wall[name], batch, config.seed)
            summary["queries_per_s"] = summary.pop("records_per_s")
            parts[name] = {**summary, "cpu_p50_us": float(np.median(cpu[name]))}
            figures.add_summary(f"{start}_b{batch}", summary, STATISTICS)
        for share, (is_cpu, under) in SHARES.items():
            times = cpu if is_cpu else wall
            estimate = ratio([times[WHOLE]], [times[name] for name in under], config.seed)
            figures.add(f"{share}_b{batch}", estimate)
        on_processor = min(1.0, float(cpu[WHOLE].sum() / wall[WHOLE].sum()))
        batches[str(batch)] = {"parts": parts, "on_processor": on_processor}
    for name in LOADING:
        seconds = np.array([[each[name]] for each in loads])
        figures.add(name, percentile(seconds, 50, config.seed))
    setting = {name: found[name] for name in ("threads", "k", "search", "queries")}
    return {**setting, "batches": batches, "loads": loads}
