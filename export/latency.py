"""CPU latency of each tower, ONNX Runtime beside torch eager.

Both run in one process at the same declared thread budget, on inputs that differ from call to call, in
short turns: long enough that neither pays for the other's traces in the processor's caches, short enough
that the ratio holds where the machine's speed drifts.
"""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.backends import Encode
from protos.features import Arrays, TowerInputs

BATCHES = (1, 8, 32)
WARM_UP = 30  # calls
TURN = 30  # counted calls of one backend before the other's turn
SETTLING = 3  # calls at the start of a turn that are not counted
PERCENTILES = (50, 95, 99)

Backends = Mapping[str, Encode]
Measured = dict[str, Any]


def measure(
    inputs: TowerInputs,
    backends: Backends,
    values: Mapping[str, Sequence[Any]],
    iterations: int,
    threads: int,
) -> dict[int, dict[str, Measured]]:
    """Latency of the backends at each batch size.

    Args:
        backends: name -> encoder; ONNX Runtime's were made with `threads` intra-op threads.
        values: feature name -> raw values of real records, the more the better.
        iterations: timed calls of each backend.
        threads: torch's budget while this runs.

    Returns:
        batch size -> backend -> `p50_us`, `p95_us`, `p99_us`, `mean_us`, `records_per_s`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    try:
        return {
            batch: _interleaved(backends, _varied(inputs, values, batch), iterations) for batch in BATCHES
        }
    finally:
        torch.set_num_threads(before)


def _varied(inputs: TowerInputs, values: Mapping[str, Sequence[Any]], batch: int) -> list[Arrays]:
    """Up to 64 different batches of real records."""
    total = len(next(iter(values.values())))
    found = []
    for start in range(0, min(total, 64 * batch), batch):
        rows = [(start + n) % total for n in range(batch)]
        found.append(inputs.to_arrays({name: [v[r] for r in rows] for name, v in values.items()}))
    return found


def _interleaved(backends: Backends, arrays: list[Arrays], iterations: int) -> dict[str, Measured]:
    times: dict[str, list[float]] = {name: [] for name in backends}
    for encode in backends.values():
        for call in range(WARM_UP):
            encode(arrays[call % len(arrays)])
    for turn in range(-(-iterations // TURN)):
        for name in sorted(backends, reverse=bool(turn % 2)):
            for call in range(SETTLING + TURN):
                chosen = arrays[(turn * TURN + call) % len(arrays)]
                begun = time.perf_counter()
                backends[name](chosen)
                taken = time.perf_counter() - begun
                if call >= SETTLING:
                    times[name].append(taken)
    batch = len(next(iter(arrays[0].values())))
    return {name: _summary(np.array(taken), batch) for name, taken in times.items()}


def _summary(seconds: Any, batch: int) -> Measured:
    micro = seconds * 1e6
    summary = {f"p{p}_us": float(np.percentile(micro, p)) for p in PERCENTILES}
    return summary | {
        "mean_us": float(micro.mean()),
        "records_per_s": batch / float(seconds.mean()),
        "iterations": len(micro),
    }


def metrics(side: str, measured: Mapping[int, Mapping[str, Measured]]) -> dict[str, float]:
    """The figures under the names that MLflow, manifest and reports share."""
    found = {}
    for batch, backends in measured.items():
        for name, summary in backends.items():
            tower = "" if (side, name) == ("query", "torch") else f"{side}_tower_"
            for percentile in PERCENTILES:
                key = f"{tower}{name}_b{batch}_p{percentile}_us"
                found[key] = summary[f"p{percentile}_us"]
        ratio = backends["torch"]["p50_us"] / backends["fp32"]["p50_us"]
        found[f"{'' if side == 'query' else 'item_'}torch_over_onnx_b{batch}"] = ratio
    return found


def machine() -> dict[str, Any]:
    """Where a latency was measured: it means little anywhere else."""
    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open() as file:
            models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        name = models[0] if models else name
    except OSError:
        pass
    return {"processor": name, "cores": os.cpu_count(), "system": platform.system()}
