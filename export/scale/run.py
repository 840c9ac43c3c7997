"""One size after the other, each step in a process of its own; what was measured is kept.

    <work>/10000-3f2a9c0d1e5b.json     all that was measured of a size
    <work>/10000-3f2a9c0d1e5b/         its files until then: the catalogue, the graph, `<step>.json`

A report that was killed goes on with the step that it was killed in.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from export.bench.machine import machine, versions
from protos.bundle import write_file
from protos.errors import Unavailable
from train.fingerprint import fingerprint, program
from train.places import CACHE, ROOT

WORK = CACHE / "scale"
MODULE = "export.scale.measuring"
CATALOGUE = ("encode", "build", "search", "load")  # steps of a catalogue of documents, in order
VECTORS = ("vectors", "exact")  # of vectors alone
RETRIEVER = "serving.retriever"  # run by the step `load`; `program` covers it because its name is here

Document = dict[str, Any]
Launch = Callable[[str, Path, int, int], None]  # step, folder, items, seed


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Args:
        items: N.
        steps: in order.
        seed: of all that is made up.
    """

    items: int
    steps: Sequence[str]
    seed: int

    @property
    def name(self) -> str:
        """Says what it is, and stands for everything that its figures follow from."""
        code = program(__name__)
        followed = fingerprint(self.items, list(self.steps), self.seed, code, machine(), versions())
        return f"{self.items}-{followed[:12]}"


def in_own_process(step: str, folder: Path, items: int, seed: int) -> None:
    """Measure a step in a fresh process, which shows its own progress.

    Raises:
        Unavailable: it did not come to its end.
    """
    command = [sys.executable, "-m", MODULE, step, "--folder", str(folder.absolute())]
    command += ["--items", str(items), "--seed", str(seed)]
    # Exact search divides its work itself, among threads that each have one of the libraries'.
    own = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} if step in VECTORS else {}
    code = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **own}, stdout=subprocess.DEVNULL, check=False
    ).returncode
    if code:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise Unavailable(
            f"scale: {step} of {items:,} items {how}; what was measured before is kept, and the same command "
            "goes on from there"
        )


def measured(
    subjects: Sequence[Subject], console: Console, work: Path = WORK, launch: Launch = in_own_process
) -> list[Document]:
    """What is known of each subject, measured now where it was not before.

    Raises:
        Unavailable: another report is being made here, or a step did not come to its end.
    """
    with _alone(work):
        return [_measured(each, console, work, launch) for each in subjects]


def _measured(subject: Subject, console: Console, work: Path, launch: Launch) -> Document:
    folder = work / subject.name
    kept = folder.with_name(f"{folder.name}.json")
    known = _read(kept)
    if known is not None:
        console.print(f"{subject.items:,} items: measured before", highlight=False)
        return known
    folder.mkdir(exist_ok=True)
    document: Document = {"items": subject.items, "seed": subject.seed}
    for step in subject.steps:
        path = folder / f"{step}.json"
        if _read(path) is None:
            console.print(f"{subject.items:,} items: {step}", highlight=False)
            launch(step, folder, subject.items, subject.seed)
        found = _read(path)
        assert found is not None  # a step that succeeds has left it
        document[step] = found
    write_file(kept, f"{json.dumps(document, allow_nan=False)}\n".encode())
    shutil.rmtree(folder)
    return document


def _read(path: Path) -> Document | None:
    try:
        found: Mapping[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return dict(found)


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Two reports at a time would measure each other; the lock goes with the process, however that ends."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"{work}: another scale report is being made") from None
        yield
