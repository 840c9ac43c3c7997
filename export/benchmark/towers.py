"""Latency of both towers in torch and ONNX Runtime, for a bundle's manifest and for a bench."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from twinspire.export.benchmark.figures import SERVED, TORCH, Figures
from twinspire.export.onnx.export import frozen
from twinspire.export.onnx.runtimes import LARGEST_BATCH, Encode, onnx_encoder, torch_encoder
from twinspire.protos.bundle import TOWERS, Manifest
from twinspire.protos.features import (
    SIDES,
    Arrays,
    Side,
    TowerInputs,
)
from twinspire.protos.system.machine import machine
from twinspire.protos.system.timing import Effort, Times, take_turns
from twinspire.train.config.bundle import ExportConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.models.towers import Tower
from twinspire.train.progress import PROGRESS, progress_bar
from twinspire.train.training.tracking import get_run
from twinspire.train.training.trained_model import load_model

RECORDS = 2000  # of each side
DISTINCT = 64  # batches, so that a call does not find its inputs in the processor's caches
PAUSE = 0.005  # seconds in which the idle threads of torch and of each session stop spinning
BATCHES = (1, 8, 32)  # records
LEAST = 2  # calls that are made whatever they take
NARROW = 0.02  # of a median, half of its interval, at which no more calls are made
TOWER_SECONDS, BENCH_SECONDS = 3.0, 10.0  # for a tower, at all batch sizes; a bench reports intervals

Values = Mapping[str, Sequence[Any]]


class TowerForms(NamedTuple):
    """One tower in torch and as it is served."""

    inputs: TowerInputs
    tower: Tower  # in evaluation mode
    path: Path  # ONNX file
    values: Values  # feature name -> raw values of real records

    def encoders(self, threads: int) -> dict[str, Encode]:
        """Backend -> encoder; torch has the thread budget of its process."""
        onnx = onnx_encoder(self.path, threads or os.cpu_count() or 1)  # idle threads spin, as in the service
        return {TORCH: torch_encoder(self.tower), SERVED: onnx}


def measure_towers(
    forms: Mapping[Side, TowerForms], config: ExportConfig, figures: Figures | None = None
) -> dict[str, Any]:
    """Time torch and the served variant on real records, at the thread budget of `[export]`.

    A tower takes about `TOWER_SECONDS` at most, in a bench `BENCH_SECONDS`, unless a few calls take longer.
    Batches of several records that may hold more than `LARGEST_BATCH` characters are left out: they take too
    much memory in torch.

    Args:
        figures: of a bench, to which those of the report are added.

    Returns:
        The report: `machine`, `threads`, `towers`, `metrics`.
    """
    pause = 0 if config.threads == 1 else PAUSE
    seconds = (TOWER_SECONDS if figures is None else BENCH_SECONDS) / len(BATCHES)
    effort = Effort(config.iterations, LEAST, seconds, pause, NARROW)
    figures = figures or Figures()
    towers: dict[Side, dict[str, Any]] = {side: {} for side in forms}  # side -> batch -> backend -> summary
    with torch_threads(config.threads), progress_bar(PROGRESS, transient=True) as progress:
        task = progress.add_task("latency", total=len(forms) * len(BATCHES), note="")
        for side, own in forms.items():
            encoders = own.encoders(config.threads)
            longest = max(own.inputs.lengths(own.values, len(next(iter(own.values.values())))))
            for batch in (each for each in BATCHES if each == 1 or each * longest <= LARGEST_BATCH):
                taken = time_tower(batch, encoders, own.inputs, own.values, effort)
                towers[side][str(batch)] = figures.add_tower(side, batch, taken)
                progress.update(task, advance=1, note=f"{side} tower, batch {batch}")
    return {
        "machine": machine(),
        "threads": config.threads,
        "towers": towers,
        "metrics": dict(figures.metrics),
    }


def time_tower(
    batch: int, encoders: Mapping[str, Encode], inputs: TowerInputs, values: Values, effort: Effort
) -> dict[str, Times]:
    """Time all encoders of a tower on the same batches.

    The thread budget of torch and of each encoder is the caller's to set.

    Args:
        batch: records in each batch.

    Returns:
        backend -> microseconds of each call, (turns, calls).
    """
    batches = distinct_batches(inputs, values, batch)
    contenders = {name: [partial(encode, each) for each in batches] for name, encode in encoders.items()}
    return {name: taken.wall for name, taken in take_turns(contenders, effort).items()}


def distinct_batches(inputs: TowerInputs, values: Values, batch: int) -> list[Arrays]:
    """Up to 64 batches, no two of them equal.

    Args:
        values: feature name -> raw values of records. With too few records for 64 batches, the batches
            overlap but start at different records.
        batch: records in each batch.
    """
    total = len(next(iter(values.values())))
    step = max(1, min(batch, total // DISTINCT))
    found = []
    for start in range(0, min(total, DISTINCT * step), step):
        rows = [(start + n) % total for n in range(batch)]
        found.append(inputs.to_arrays({name: [v[r] for r in rows] for name, v in values.items()}))
    return found


def tower_forms(folder: Path, manifest: Manifest, data: TrainingData) -> dict[Side, TowerForms]:
    """Both towers of a bundle in torch and as served, with test records.

    Raises:
        MissingStage: the run that trained the towers is unknown, or has none.
    """
    forms = {}
    for side, tower in zip(SIDES, load_model(get_run(manifest.run_id)).towers, strict=True):
        values: dict[str, list[Any]] = data.sample(side, "test", RECORDS, seed=0)
        forms[side] = TowerForms(manifest.schema.side(side), frozen(tower), folder / TOWERS[side], values)
    return forms


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Set torch's thread budget for the block; 0 is all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
