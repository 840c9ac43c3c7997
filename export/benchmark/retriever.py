"""The retriever's latency, one query at a time, and the time to load a bundle, in processes of `serving`."""

from typing import Any

import numpy as np

from twinspire.export.benchmark.estimate import percentile
from twinspire.export.benchmark.figures import Figures, MeasuredBundle
from twinspire.export.benchmark.isolated_process import ask_of_bundle
from twinspire.protos.system.timing import Times
from twinspire.train.progress import PROGRESS

NAME = "retriever"
K = 10  # items in an answer
ROUNDS = 10  # whose median counts
LATENCY = {f"{NAME}_b1_{each}": each for each in ("p50_us", "p99_us")}  # figure -> its name in the response
LOADING = ("load_s", "start_s")


def measure(bundle: MeasuredBundle, figures: Figures) -> dict[str, Any]:
    """Measure on one thread; returns the part of the report, and adds the figures.

    Raises:
        BundleDamaged: the bundle cannot be measured.
    """
    config = bundle.experiment.bench
    request = {"task": "measure", "bundles": {NAME: str(bundle.folder.absolute())}, "k": K, "loads": 0}
    request |= {"iterations": bundle.experiment.gates.iterations, "rounds": ROUNDS}
    with PROGRESS.status("the retriever, and load time"):
        taken = ask_of_bundle(bundle.folder, request)["latency"]["retriever"][NAME]
        loads = [ask_of_bundle(bundle.folder, {"task": "load"}) for _ in range(config.loads)]

    def add(figure: str, values: list[float]) -> None:
        rounds: Times = np.array(values)[:, None]
        figures.add(figure, percentile(rounds, 50, config.seed))

    for figure, each in LATENCY.items():
        add(figure, taken[each])
    for each in LOADING:
        add(each, [load[each] for load in loads])
    return {"threads": 1, "k": K, "queries": taken["queries"], "loads": loads}
