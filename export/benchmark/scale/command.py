"""The command `python -m export scale`. It needs no experiment: its data is generated.

Each step of each size runs in a process of its own, and its results are kept:

    <work>/10000-3f2a9c0d1e5b.json     all results of a size
    <work>/10000-3f2a9c0d1e5b/         until then: its files, and `<step>.json` of each finished step

An interrupted run continues with the step that was interrupted.
"""

import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from export.benchmark import LIBRARIES
from export.benchmark.scale.measuring.settings import DIMENSION
from protos import cli
from protos.bundle import write_file
from protos.errors import Unavailable
from protos.files.file_lock import exclusive_lock
from protos.system.machine import machine, versions
from protos.system.signals import signal_name
from train.fingerprint import code_fingerprint, fingerprint
from train.paths import CACHE, ROOT
from train.progress import PROGRESS

WORK = CACHE / "scale"
MODULE = "export.benchmark.scale.measuring"
CATALOGUE = ("encode", "build", "search", "load")  # steps of a catalogue of texts, in order
VECTORS = ("vectors", "exact")  # steps of int8 vectors without texts
SIZES = (10_000, 100_000, 1_000_000)
FEWEST = 100  # items of a size, and vectors
EXACT_BYTES = DIMENSION + 4  # of an int8 vector with its scale
ROOM = 1 << 30  # bytes that must stay free

Document = dict[str, Any]
Launch = Callable[[str, Path, int, int], None]  # step, folder, items, seed


def add_scale(commands: Any) -> ArgumentParser:
    """Add the subcommand `scale`."""

    def show(document: Document, console: Any) -> None:
        from export.benchmark.scale import report

        report.show(document, console)

    command = cli.add_command(commands, "scale", scale.__doc__, cli.document_command(scale, show))
    add = command.add_argument
    add(
        "--sizes",
        type=_sizes,
        default=SIZES,
        metavar="N,N,...",
        help="items of each catalogue, the smallest first (default: 10000,100000,1000000)",
    )
    add(
        "--vectors",
        type=lambda text: _number(text, 0 if text.strip() == "0" else FEWEST),
        default=10_000_000,
        metavar="N",
        help="int8 vectors to search without a graph, where memory allows; 0 for none (default: %(default)s)",
    )
    add("--output", type=Path, default=Path("export"), help="folder of page and plot (default: %(default)s)")
    seed = partial(_number, least=0)
    add("--seed", type=seed, default=0, help="of the generated data (default: %(default)s)")
    return command


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(_number(each, FEWEST) for each in text.split(","))
    if sizes != tuple(sorted({*sizes})):
        raise ArgumentTypeError(f"expected increasing numbers, got {text!r}")
    return sizes


def _number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if value < least:
        raise ArgumentTypeError(f"expected at least {least}, got {value}")
    return value


def run_step(step: str, folder: Path, items: int, seed: int) -> None:
    """Run a step in a new process, which shows its own progress; Unavailable if it fails."""
    command = [sys.executable, "-m", MODULE, step, str(folder.absolute()), str(items), str(seed)]
    # Exact search starts threads of its own, so the libraries get one each.
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} if step in VECTORS else {}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **threads}, stdout=subprocess.DEVNULL, check=False
    )
    if code := done.returncode:
        how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with {code}"
        raise Unavailable(
            f"scale: {step} of {items:,} items {how}; earlier results are kept, and the same command "
            "continues with this step"
        )


def scale(arguments: Namespace, work: Path = WORK, launch: Launch = run_step) -> Document:
    """Generate, encode, index, load and query catalogues of growing size; write SCALE.md."""
    from export.benchmark.scale import report

    work.mkdir(parents=True, exist_ok=True)
    vectors, seed = arguments.vectors, arguments.seed
    left_out = "--vectors is 0" if vectors == 0 else _too_many(vectors, work)
    with exclusive_lock(work / ".lock", Unavailable(f"{work}: another scale report is being made")):
        sizes = [measured(items, CATALOGUE, seed, work, launch) for items in arguments.sizes]
        exact = None if left_out else measured(vectors, VECTORS, seed, work, launch)
    document = report.document_of(sizes, exact, left_out, seed)
    return document | report.write(document, arguments.output)


def _too_many(vectors: int, work: Path) -> str:
    """Why these vectors cannot be searched on this machine; empty if they can."""
    needed = vectors * EXACT_BYTES + ROOM
    free = {"memory": psutil.virtual_memory().available, "room on the disk": shutil.disk_usage(work).free}
    for what, bytes_ in free.items():
        if bytes_ < needed:
            return f"{vectors:,} need {needed / 1e9:.1f} GB of {what}, and {bytes_ / 1e9:.1f} GB are free"
    return ""


def measured(items: int, steps: tuple[str, ...], seed: int, work: Path, launch: Launch) -> Document:
    """The results of the steps for a number of items; runs those that have none.

    They are kept under a key of all that they depend on: settings, code, machine and libraries.
    """
    setting = code_fingerprint(f"{MODULE}.__main__"), machine(), versions(LIBRARIES)
    folder = work / f"{items}-{fingerprint(items, steps, seed, *setting)[:12]}"
    kept = folder.with_name(f"{folder.name}.json")
    if kept.exists():
        PROGRESS.print(f"{items:,} items: measured before", highlight=False)
        return _read(kept)
    folder.mkdir(exist_ok=True)
    document: Document = {"items": items, "seed": seed}
    for step in steps:
        path = folder / f"{step}.json"
        if not path.exists():
            PROGRESS.print(f"{items:,} items: {step}", highlight=False)
            launch(step, folder, items, seed)
        document[step] = _read(path)
    write_file(kept, f"{json.dumps(document, allow_nan=False)}\n".encode())
    shutil.rmtree(folder)
    return document


def _read(path: Path) -> Document:
    found: Document = json.loads(path.read_bytes())
    return found
