"""The command that measures what one machine holds. It takes no experiment: its data is made up.

python -m export scale --sizes 10000,100000,1000000 --vectors 10000000 --output export
"""

import argparse
import itertools
import shutil
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from export.scale.measuring.subject import DIMENSION
from export.scale.run import CATALOGUE, VECTORS, WORK, Launch, Subject, in_own_process, measured
from train.command import PROGRESS

SIZES = (10_000, 100_000, 1_000_000)
FEWEST = 100  # items of a size, and vectors
EXACT_BYTES = DIMENSION + 4  # of a vector of int8 with its scale
ROOM = 1 << 30  # bytes that must stay free beside the vectors

Document = dict[str, Any]


def add_scale(commands: Any) -> ArgumentParser:
    """The subcommand `scale`, with its options."""
    about = scale.__doc__
    command: ArgumentParser = commands.add_parser("scale", help=about, description=about)
    command.add_argument(
        "--sizes",
        type=_sizes,
        default=SIZES,
        metavar="N,N,...",
        help="items of each catalogue, the smallest first (default: 10000,100000,1000000)",
    )
    command.add_argument(
        "--vectors",
        type=_vectors,
        default=10_000_000,
        metavar="N",
        help="int8 vectors searched without a graph, where memory allows; 0 for none (default: %(default)s)",
    )
    command.add_argument(
        "--output", type=Path, default=Path("export"), help="folder of page and plot (default: %(default)s)"
    )
    command.add_argument("--seed", type=_seed, default=0, help="of what is made up (default: %(default)s)")
    command.add_argument("--json", action="store_true", help="print one JSON document")

    def show(document: Document, console: Any) -> None:
        from export.scale.tables import show as shown

        shown(document, console)

    command.set_defaults(run_command=scale, show=show)
    return command


def scale(arguments: Namespace) -> Document:
    """Measure catalogues of growing size, made up, encoded, indexed, loaded and asked; write SCALE.md."""
    return run(arguments.sizes, arguments.vectors, arguments.output, arguments.seed)


def run(
    sizes: Sequence[int],
    vectors: int,
    output: Path,
    seed: int,
    work: Path = WORK,
    launch: Launch = in_own_process,
) -> Document:
    """Measure what was not measured before, and write page and plot of all of it.

    Args:
        sizes: items of each catalogue, the smallest first.
        vectors: of int8 that are searched without a graph; 0 for none.
        output: folder of page and plot.
        work: folder of what was measured.
        launch: how a step is measured.

    Raises:
        Unavailable: another report is being made, or a step did not come to its end.
    """
    from export.scale import report  # plots and MLflow take seconds to import

    work.mkdir(parents=True, exist_ok=True)
    left_out = "they were not asked for" if vectors == 0 else _too_many(vectors, work)
    subjects = [Subject(items, CATALOGUE, seed) for items in sizes]
    if not left_out:
        subjects.append(Subject(vectors, VECTORS, seed))
    found = measured(subjects, PROGRESS, work, launch)
    document = report.document_of(found[: len(sizes)], None if left_out else found[-1], left_out, seed)
    return document | report.write(document, output)


def _too_many(vectors: int, work: Path) -> str:
    """Why so many vectors cannot be searched here; empty if they can."""
    needed = vectors * EXACT_BYTES + ROOM
    free = {"memory": psutil.virtual_memory().available, "room on the disk": shutil.disk_usage(work).free}
    for what, bytes_ in free.items():
        if bytes_ < needed:
            return f"{vectors:,} take {needed / 1e9:.1f} GB of {what}, and {bytes_ / 1e9:.1f} GB are free"
    return ""


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(_number(each, FEWEST) for each in text.split(","))
    if any(before >= after for before, after in itertools.pairwise(sizes)):
        raise ArgumentTypeError(f"expected numbers that grow, got {text!r}")
    return sizes


def _vectors(text: str) -> int:
    return _number(text, 0 if text.strip() == "0" else FEWEST)


def _seed(text: str) -> int:
    return _number(text, 0)


def _number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"expected at least {least}, got {value}")
    return value
