"""Latency of both towers in torch and ONNX Runtime.

`measure` is the part of a bench: every precision, and the graph without rewrites. `manifest_latency` is the
shorter measurement of a bundle's manifest.
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from matplotlib.figure import Figure

from export import quantization
from export.benchmark.figures import (
    EXPORTED,
    PLAIN,
    SERVED,
    TORCH,
    Figures,
    MeasuredBundle,
    tower_names,
)
from export.benchmark.plots import latency_by_batch
from export.latency.inputs import AS_IS, HISTORY, LONG, SHORT, Values
from export.latency.tower_latency import LatencyCase, time_tower
from export.onnx.export import as_exported, export_tower, frozen
from export.onnx.runtimes import Encode, onnx_encoder, torch_encoder
from protos.bundle import TOWERS
from protos.features import SIDES, FeatureSpec, HistoryFeature, Schema, Side, TextFeature, TowerInputs
from protos.system.huge_pages import on_huge_pages
from protos.system.machine import machine
from protos.system.timing import Effort
from train.config import ExportConfig
from train.config.bench import BenchConfig
from train.models.towers import Tower
from train.progress import PROGRESS, progress_bar
from train.training.tracking import get_run
from train.training.trained_model import load_model

SIZE_SHARES: dict[Side, str] = {"query": "chosen_size_share", "item": "item_chosen_size_share"}
RECORDS = 2000  # of each side
HISTORIES = (5, 30)  # items, beside the most that a tower reads
SET_LENGTH_BATCHES = (1, 32)  # batch sizes of inputs with a set length; all would take half an hour
SMALL = 8  # up to this batch size all calls are made
SMALL_SECONDS = 10  # time limit of a small batch, as a multiple of that of a large one
PAUSE = 0.005  # seconds in which the idle threads of torch and of each session stop spinning
MANIFEST_BATCHES = (1, 8, 32)
MANIFEST_SEED = 0
NOT_IN_MANIFEST = ("_served_", "_as_is_", "_mean_us", "_per_s")  # parts of names


class TowerForms(NamedTuple):
    """One tower in torch and as ONNX files."""

    inputs: TowerInputs
    tower: Tower  # in evaluation mode
    variants: Mapping[str, Path]  # name -> ONNX file, among them the served one
    values: Values  # feature name -> raw values of real records

    def encoders(self, threads: int) -> dict[str, Encode]:
        """Backend -> encoder; torch has the thread budget of its process."""
        found = {TORCH: torch_encoder(self.tower)}
        return found | {name: onnx_encoder(path, threads) for name, path in self.variants.items()}


def names(bundle: MeasuredBundle) -> set[str]:
    """The names of all figures of `measure`."""
    config, schema = bundle.experiment.bench, bundle.manifest.schema
    backends = {TORCH, EXPORTED, SERVED, *quantization.VARIANTS}
    return tower_names(cases(config, schema), backends, main_kind(schema.query)) | {*SIZE_SHARES.values()}


def measure(bundle: MeasuredBundle, figures: Figures) -> dict[str, Any]:
    """Time all backends in all cases; returns the part of the report, and adds the figures."""
    config, schema = bundle.experiment.bench, bundle.manifest.schema
    kind, planned = main_kind(schema.query), cases(config, schema)
    part: dict[str, Any] = {"cells": [], "main_kind": kind}
    cpu = elapsed = 0.0  # seconds of the cases of one thread
    with tempfile.TemporaryDirectory(prefix="twinspire-bench-") as scratch:
        with PROGRESS.status("exporting both towers in every precision, and without rewrites"):
            forms = tower_forms(bundle, Path(scratch))
        figures.metrics.update(size_shares(forms))
        with progress_bar(PROGRESS) as progress:
            task = progress.add_task("towers", total=len(planned), note="")
            for (threads, side), group in groupby(planned, lambda case: (case.threads, case.side)):
                own = forms[side]
                with torch_threads(threads):
                    progress.update(task, note=f"preparing the {side} tower")
                    encoders = own.encoders(threads)
                    for case in group:
                        progress.update(task, note=f"{side} tower, {case.kind}, batch {case.batch}")
                        begun_cpu, begun = time.thread_time(), time.perf_counter()
                        taken = time_tower(case, encoders, own.inputs, own.values, effort(case, config))
                        if threads == 1:
                            cpu += time.thread_time() - begun_cpu
                            elapsed += time.perf_counter() - begun
                        summaries = figures.add_case(case, taken, kind, config.seed)
                        part["cells"].append({**asdict(case), "backends": summaries})
                        progress.update(task, advance=1)
    return part | {"on_processor": min(1.0, cpu / elapsed) if elapsed else None}


def manifest_latency(forms: Mapping[Side, TowerForms], config: ExportConfig) -> tuple[dict[str, Any], Figure]:
    """Time torch, `fp32` and `served` on real records, within a minute, at the thread budget of `[export]`.

    Returns:
        the report (`machine`, `threads`, `towers`, `metrics`) and its plot.
    """
    effort = Effort(config.iterations, config.iterations, math.inf)
    figures = Figures()
    towers: dict[Side, dict[str, Any]] = {side: {} for side in forms}  # side -> batch -> backend -> summary
    with torch_threads(config.threads):
        for side, own in forms.items():
            encoders = own.encoders(config.threads)
            for batch in MANIFEST_BATCHES:
                case = LatencyCase(side, 1, batch, AS_IS)  # names without threads; the report has them
                taken = time_tower(case, encoders, own.inputs, own.values, effort)
                towers[side][str(batch)] = figures.add_case(case, taken, AS_IS, MANIFEST_SEED)
    kept = [name for name in figures.metrics if not any(each in name for each in NOT_IN_MANIFEST)]
    report = {
        "machine": machine(),
        "threads": config.threads,
        "towers": towers,
        "metrics": {name: figures.metrics[name] for name in kept},
    }
    return report, latency_by_batch({(side, config.threads): found for side, found in towers.items()})


def cases(config: BenchConfig, schema: Schema) -> list[LatencyCase]:
    """All cases, sorted by thread budget and tower."""
    return [
        LatencyCase(side, threads, batch, kind)
        for threads in config.threads
        for side in SIDES
        for kind in kinds(schema.side(side).features)
        for batch in config.batches
        if kind == AS_IS or batch in SET_LENGTH_BATCHES
    ]


def kinds(features: Mapping[str, FeatureSpec]) -> list[str]:
    """The kinds of input that differ for a tower with these features."""
    found = [AS_IS]
    if any(isinstance(spec, TextFeature) for spec in features.values()):
        found += [SHORT, LONG]
    longest = [spec.longest for spec in features.values() if isinstance(spec, HistoryFeature)]
    if longest:
        lengths = sorted({*(n for n in HISTORIES if n < max(longest)), max(longest)})
        found += [f"{HISTORY}{n}" for n in lengths]
    return found


def main_kind(features: Mapping[str, FeatureSpec]) -> str:
    """The input of the main ratio: texts of 20 characters, or real records where there is no text."""
    return SHORT if SHORT in kinds(features) else AS_IS


def effort(case: LatencyCase, config: BenchConfig) -> Effort:
    """The calls of a case. Small batches on one thread have no time limit.

    On a busy machine several threads can wait for each other a thousand times as long as they work. So with
    several threads even small batches have a limit; the report shows the number of calls.
    """
    small, single = case.batch <= SMALL, case.threads == 1
    fewest = config.iterations if small and single else config.fewest
    seconds = config.cell_seconds * (SMALL_SECONDS if small else 1)
    return Effort(config.iterations, fewest, seconds, 0 if single else PAUSE)


def tower_forms(bundle: MeasuredBundle, scratch: Path) -> dict[Side, TowerForms]:
    """Both towers of a bundle as served, in every precision and without rewrites, with test records.

    Raises:
        MissingStage: the run that trained the towers is unknown, or has none.
    """
    data, forms = bundle.data(), {}
    for side, trained in zip(SIDES, load_model(get_run(bundle.manifest.run_id)).towers, strict=True):
        inputs = bundle.manifest.schema.side(side)
        with on_huge_pages():  # as the ONNX files that it is compared with
            tower = frozen(trained)
        values: dict[str, list[Any]] = data.sample(side, "test", RECORDS, seed=0)
        few = inputs.to_arrays({name: (column * 2)[:2] for name, column in values.items()})
        exported, plain = scratch / f"{side}-{EXPORTED}.onnx", scratch / f"{side}.onnx"
        onnx.save_model(as_exported(tower, inputs.features, few), exported)
        export_tower(tower, inputs.features, few, plain)
        wanted = [name for name in quantization.VARIANTS if name != bundle.variant(side)]
        made = quantization.make_variants(plain, scratch, wanted)
        files: dict[str, Path] = {SERVED: bundle.folder / TOWERS[side], EXPORTED: exported}
        forms[side] = TowerForms(inputs, tower, files | dict(made.files.items()), values)
    return forms


def size_shares(forms: Mapping[Side, TowerForms]) -> dict[str, float]:
    """Size of each served tower over its size in float32."""
    return {
        SIZE_SHARES[side]: own.variants[SERVED].stat().st_size / own.variants[PLAIN].stat().st_size
        for side, own in forms.items()
    }


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Set torch's thread budget for the block; 0 is all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
