"""Both towers, in every form there is of them, cell by cell of the plan."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from rich.console import Console

from export.backends import Encode, onnx_encoder, torch_encoder
from export.bench.compiled import compiled
from export.bench.inputs import Values, of_kind, varied
from export.bench.machine import cores
from export.bench.plan import AS_IS, SMALL, Cell
from protos.features import Side, TowerInputs
from protos.turns import Effort, Times, take_turns
from train.config.bench import BenchConfig
from train.progress import progress_bar
from train.towers import Tower

TORCH = "torch"
COMPILED = "compiled"
EXPORTED = "exported"
GENEROUS = 10  # times as long as a large batch may a small one take
PAUSE = (
    0.005  # seconds in which threads stop waiting for work: those of torch and of each session do at first
)


@dataclass(frozen=True)
class Forms:
    """One tower, in torch and as ONNX files.

    Args:
        tower: for inference.
        variants: name -> ONNX file; the one that is served is among them.
        values: feature name -> raw values of real records.
    """

    inputs: TowerInputs
    tower: Tower
    variants: Mapping[str, Path]
    values: Values


@dataclass(frozen=True)
class Measured:
    """What came of it.

    Args:
        cells: each with the times of its backends.
        skipped: what was not measured -> why.
        compile_s: tower and thread budget -> seconds that `torch.compile` took.
        clocks: seconds by the clock, and of this thread on a processor, in cells of one thread.
    """

    cells: list[tuple[Cell, dict[str, Times]]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    compile_s: dict[str, float] = field(default_factory=dict)
    clocks: list[tuple[float, float]] = field(default_factory=list)

    @property
    def on_processor(self) -> float | None:
        """The share of its time that one thread had a processor; below 1 where others used the machine."""
        wall, cpu = (sum(each) for each in zip(*self.clocks, strict=True)) if self.clocks else (0.0, 0.0)
        return min(1.0, cpu / wall) if wall else None


def measure(
    cells: Sequence[Cell], forms: Mapping[Side, Forms], config: BenchConfig, console: Console
) -> Measured:
    """Time all backends in all cells.

    Args:
        cells: those of a thread budget and tower stand together.
    """
    measured = Measured()
    with progress_bar(console) as progress:
        task = progress.add_task("towers", total=len(cells), note="")
        for (threads, side), group in groupby(cells, lambda cell: (cell.threads, cell.side)):
            with torch_threads(threads):
                progress.update(task, note=f"preparing the {side} tower")
                encoders = _encoders(forms[side], side, threads, config, measured)
                for cell in group:
                    progress.update(task, note=f"{side} tower, {cell.kind}, batch {cell.batch}")
                    begun = time.perf_counter(), time.thread_time()
                    taken = time_cell(
                        cell, encoders, forms[side].inputs, forms[side].values, effort(cell, config)
                    )
                    measured.cells.append((cell, taken))
                    if threads == 1:
                        ended = time.perf_counter() - begun[0], time.thread_time() - begun[1]
                        measured.clocks.append(ended)
                    progress.update(task, advance=1)
        progress.update(task, note="")
    return measured


def time_cell(
    cell: Cell, encoders: Mapping[str, Encode], inputs: TowerInputs, values: Values, effort: Effort
) -> dict[str, Times]:
    """Backend -> microseconds (turns, calls) of one cell; torch's threads are as the caller has set them."""
    arrays = varied(inputs, of_kind(inputs, values, cell.kind), cell.batch)
    contenders = {name: [partial(encode, each) for each in arrays] for name, encode in encoders.items()}
    return {name: taken.wall for name, taken in take_turns(contenders, effort).items()}


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch's thread budget for as long as the block lasts; 0 is all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def effort(cell: Cell, config: BenchConfig) -> Effort:
    """How many calls a cell is worth. At small batches on one thread no time limit spares any.

    Several threads wait for one another, and where others use the machine that takes a thousand times as
    long as the work, so with them even small batches have a limit; the report says how many calls there were.
    """
    small, alone = cell.batch <= SMALL, cell.threads == 1
    fewest = config.iterations if small and alone else config.fewest
    seconds = config.cell_seconds * (GENEROUS if small else 1)
    return Effort(config.iterations, fewest, seconds, 0 if alone else PAUSE)


def _encoders(
    forms: Forms, side: Side, threads: int, config: BenchConfig, measured: Measured
) -> dict[str, Encode]:
    encoders = {TORCH: torch_encoder(forms.tower)}
    encoders |= {name: onnx_encoder(path, threads) for name, path in forms.variants.items()}
    if not config.compiled:
        measured.skipped[COMPILED] = "bench.compiled is false"
        return encoders
    examples = [
        varied(forms.inputs, of_kind(forms.inputs, forms.values, AS_IS), batch)[0] for batch in (1, 8)
    ]
    found = compiled(forms.tower, examples)
    where = f"{side} tower, {threads or 'all'} thread{'s' if threads != 1 else ''}"
    if isinstance(found, str):
        measured.skipped[f"{COMPILED}, {where}"] = found
        return encoders
    measured.compile_s[where] = found.seconds
    return {**encoders, COMPILED: found.encode}
