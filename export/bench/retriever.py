"""The whole retriever beside its bare parts, and how long a bundle takes to load, in processes of their own.

Serving measures itself, `python -m serving.parts`, for nothing here may import it; what follows from its
times is worked out here.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from export.bench.figures import Figures, summary
from export.bench.interval import ratio
from export.gates.apart import LIBRARIES, PATIENCE
from protos.documents import parse_json
from protos.errors import BundleDamaged
from protos.turns import Times
from train.config.bench import BenchConfig
from train.places import ROOT

MODULE = "serving.parts"
BATCHES = (1, 32)
K = 10  # items in a request, as most are
CALLS = 3  # times as many as of a tower, for the ratio is close to 1
SECONDS = 10.0  # for each batch size
WHOLE = "retriever"
BARE = ("session_run", "bare_search")
PARTS = (WHOLE, *BARE, "pair", "prepare", "encode", "nearest")
STATISTICS = ("p50_us", "p95_us", "p99_us", "mean_us", "queries_per_s")


def measure(folder: Path, config: BenchConfig) -> tuple[dict[str, Any], Figures]:
    """The report and the figures of a bundle's retriever, on one thread.

    Raises:
        BundleDamaged: the bundle did not bear it.
    """
    figures = Figures()
    fewest = min(config.fewest * CALLS, config.iterations)
    found = _ask(
        folder,
        *("--batches", *map(str, BATCHES), "--k", str(K)),
        *("--iterations", str(config.iterations * CALLS), "--fewest", str(fewest)),
        *("--seconds", str(SECONDS)),
    )
    batches = {}
    for batch in map(str, BATCHES):
        wall, cpu = (
            {name: np.array(turns) for name, turns in found[clock][batch].items()}
            for clock in ("wall_us", "cpu_us")
        )
        batches[batch] = _batch(int(batch), wall, cpu, config.seed, figures)
    loads = [_ask(folder, "--load") for _ in range(config.loads)]
    for name in ("load_s", "start_s"):
        seconds = np.array([[each[name]] for each in loads])
        figures.add(name, ratio([seconds], [np.ones_like(seconds)], config.seed))
    told = {name: found[name] for name in ("threads", "k", "search", "queries")}
    return {**told, "batches": batches, "loads": loads}, figures


def _batch(
    batch: int, wall: dict[str, Times], cpu: dict[str, Times], seed: int, figures: Figures
) -> dict[str, Any]:
    """What there is to tell of one batch size; its figures go to the others."""
    parts = {}
    for name in PARTS:
        told = summary(wall[name], batch, seed)
        told["queries_per_s"] = told.pop("records_per_s")
        parts[name] = {**told, "cpu_p50_us": float(np.median(cpu[name]))}
        start = f"{WHOLE}_b{batch}" if name == WHOLE else f"{WHOLE}_{name}_b{batch}"
        figures.metrics.update({f"{start}_{each}": told[each] for each in STATISTICS})
        for each in ("p50", "p99"):
            figures.add_between(f"{start}_{each}_us", told[f"{each}_us"], told[f"{each}_interval_us"])
    bare = [[wall[name] for name in BARE], [wall["pair"]], [cpu[name] for name in BARE]]
    shares = ("retriever_share", "retriever_pair_share", "retriever_cpu_share")
    for share, under in zip(shares, bare, strict=True):
        whole = cpu if share == "retriever_cpu_share" else wall
        figures.add(f"{share}_b{batch}", ratio([whole[WHOLE]], under, seed))
    on_processor = float(cpu[WHOLE].sum() / wall[WHOLE].sum())
    return {"parts": parts, "on_processor": min(1.0, on_processor)}


def names() -> set[str]:
    """The names of all figures that `measure` gives."""
    starts = [WHOLE, *(f"{WHOLE}_{name}" for name in PARTS[1:])]
    shares = ("retriever_share", "retriever_pair_share", "retriever_cpu_share")
    return {
        "load_s",
        "start_s",
        *(f"{start}_b{batch}_{each}" for start in starts for batch in BATCHES for each in STATISTICS),
        *(f"{share}_b{batch}" for share in shares for batch in BATCHES),
    }


def _ask(folder: Path, *arguments: str) -> dict[str, Any]:
    """The document that serving gives, with one thread for it and its libraries."""
    command = [sys.executable, "-m", MODULE, "--bundle", str(folder.absolute()), "--threads", "1", "--json"]
    try:
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=ROOT,
            env={**os.environ, **dict.fromkeys(LIBRARIES, "1")},
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BundleDamaged(f"{folder}: not measured within {PATIENCE:g} seconds") from None
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ")
        raise BundleDamaged(f"{folder}: the retriever ended with {done.returncode}: {last}")
    try:
        document: dict[str, Any] = parse_json(done.stdout)
    except ValueError as error:
        raise BundleDamaged(f"{folder}: the retriever printed no document: {error}") from None
    return document
