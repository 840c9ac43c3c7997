"""A bundle tried before it is served, in a process of its own: whatever it does there harms nobody.

    python -m serving.following.trial .cache/bundles/3f2a9c0d1e5b   # prints what it took to load it, as JSON

The files are verified, everything is loaded that a worker loads, and the bundle's own examples are asked. A
damaged graph may kill the process that searches in it, and a large one may use up its memory; here both are
errors like any other.

Where all goes well, the trial leaves the bundle's catalogue behind, made ready for workers (`ready.py`).

A trial does not ask whether the bundle fits the one before: its name, its dimension and the features of its
queries may be others. Whether a change of these is wanted was decided by who moved the alias.
"""

import argparse
import gc
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from protos import bundle
from protos.documents import parse_json
from protos.errors import BundleDamaged, TwinspireError, Unavailable

if TYPE_CHECKING:
    from serving.served import Served

log = logging.getLogger(__name__)

NICE = 10
SECONDS = 120.0  # that a trial may take, beside a second for every
BYTES_PER_SECOND = 10_000_000
SLICE = 0.05  # seconds between two looks whether it has ended
STOPPED = (-signal.SIGTERM, -signal.SIGINT)  # exit codes after a signal to the process group
STOP_SECONDS = 1.0  # in which such a signal reaches this process too
TOGETHER = 32  # examples that are asked in one batch
LONGEST = 500  # characters of an error that are told
ERROR, WARNING = "error: ", "warning: "  # how lines begin that the process writes


class Tried(NamedTuple):
    """What a bundle took.

    Args:
        load_s: seconds to verify and load it and to answer its first queries.
        resident_bytes: that it takes in a process, beside what processes share.
        items, dimension: of it.
    """

    load_s: float
    resident_bytes: int
    items: int
    dimension: int


def try_bundle(
    folder: Path,
    item_tower: bool = False,
    stop: threading.Event | None = None,
    ready: Path | None = None,
) -> Tried:
    """Load a bundle in another process and ask it its examples.

    Args:
        folder: of the bundle.
        item_tower: load that too, and ask it.
        stop: ends the trial.
        ready: where its catalogue is made ready, which is no fault of the bundle if it fails.

    Raises:
        BundleDamaged: it cannot be loaded, does not answer, or takes the process down with it.
        Unavailable: it was stopped, or could not be started.
    """
    size = sum(each.size for each in bundle.read_manifest(folder).files.values())
    seconds = SECONDS + size / BYTES_PER_SECOND
    command = [sys.executable, "-m", "serving.following.trial", str(folder)]
    command += ["--item-tower"] if item_tower else []
    command += ["--ready", str(ready)] if ready else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaint:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=complaint, env=environment
            )
        except OSError as error:
            raise Unavailable(f"{folder.name}: cannot be tried: {error.strerror}") from None
        code = _await(process, seconds, stop)
        if code in STOPPED and stop is not None and stop.wait(STOP_SECONDS):
            code = None  # the same signal stops the service: the bundle has not failed
        said.seek(0)
        complaint.seek(0)
        text = complaint.read().decode(errors="replace").strip()
        if code is None and stop is not None and stop.is_set():
            raise Unavailable(f"{folder.name}: the trial was stopped")
        if code == 0:
            for warning in _marked(text, WARNING):
                log.warning("%s: %s", folder.name, warning)
            try:
                return Tried(**parse_json(said.read()))
            except (ValueError, TypeError):
                raise BundleDamaged(f"{folder.name}: the trial printed no result") from None
    raise BundleDamaged(f"{folder.name}: {_reason(code, text, seconds).replace(f'{folder.parent}/', '')}")


def _await(process: "subprocess.Popen[bytes]", seconds: float, stop: threading.Event | None) -> int | None:
    """The exit code of a process; None where it had to be killed."""
    until = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > until or (stop is not None and stop.is_set()):
            process.kill()
            process.wait()
            return None
        time.sleep(SLICE)
    return process.returncode


def _reason(code: int | None, text: str, seconds: float) -> str:
    if code is None:
        return f"the trial was not done after {seconds:.0f} s"
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", most likely for want of memory" if -code == signal.SIGKILL else ""
        return f"the trial was ended by {name}{hint}"
    last = _marked(text, ERROR) or text.splitlines()[-1:] or ["it does not say why"]
    return f"the trial failed: {last[-1][:LONGEST]}"


def _marked(text: str, mark: str) -> list[str]:
    """What stands behind the mark, in each line that begins with it."""
    return [line.removeprefix(mark)[:LONGEST] for line in text.splitlines() if line.startswith(mark)]


def main() -> int:
    """Try the bundle that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.following.trial", description="Try a bundle.")
    parser.add_argument("folder", type=Path, help="of the bundle")
    parser.add_argument("--item-tower", action="store_true", help="try the item tower too")
    parser.add_argument("--ready", type=Path, metavar="FOLDER", help="make its catalogue ready there")
    arguments = parser.parse_args()
    os.nice(NICE)
    try:
        tried = _try(arguments.folder, arguments.item_tower, arguments.ready)
        sys.stdout.write(f"{json.dumps(tried._asdict())}\n")
    except TwinspireError as error:
        sys.stderr.write(f"{ERROR}{error}\n")
        return 1
    return 0


def _try(folder: Path, item_tower: bool, ready: Path | None) -> Tried:
    from serving.served import Served

    logging.disable(logging.CRITICAL)
    gc.collect()
    before, begun = _own_memory(), time.perf_counter()
    served = Served.load(folder, item_tower=item_tower)
    load_s = time.perf_counter() - begun
    gc.collect()
    taken = max(0, _own_memory() - before)
    _check_vectors(folder, served)
    try:
        _ask(served)
        if item_tower:
            _encode_item(served, folder)
    except TwinspireError as error:
        raise BundleDamaged(f"{folder.name}: does not answer its own examples: {error}") from None
    except Exception as error:  # of the towers' runtime or the index, which share no other base
        raise BundleDamaged(f"{folder.name}: does not answer its own examples: {error!r}") from None
    if ready:
        _make_ready(served, ready)
    manifest = served.manifest
    return Tried(round(load_s, 3), taken, manifest.count, manifest.dimension)


def _check_vectors(folder: Path, served: "Served") -> None:
    """Refuse items whose scores would mean nothing.

    Raises:
        BundleDamaged: vectors are all zero, or not of unit length.
    """
    from protos.vectors import check_lengths

    try:
        check_lengths(served.retriever.item_vectors, served.manifest.score.kind != "cosine")
    except ValueError as error:
        raise BundleDamaged(f"{folder / bundle.VECTORS}: {error}") from None


def _ask(served: "Served") -> None:
    """Ask the examples as requests do, and read the answers as clients do.

    Raises:
        BundleDamaged: an answer is empty, has scores that are not finite, or the query tower gives only
            zeros.
    """
    from protos import retrieval_pb2 as wire
    from serving.answer import Timing
    from serving.basis import Basis
    from serving.query import example_query

    retriever, examples = served.retriever, [example_query(each) for each in served.manifest.examples]
    silent = unknown = bool(examples)
    for start in range(0, len(examples), TOGETHER):
        encoded = retriever.encode(examples[start : start + TOGETHER])
        silent = silent and not encoded.vectors.any()
        for found in retriever.find(encoded, [retriever.wanted(10, (), False)] * len(encoded.asked)):
            unknown = unknown and not found.asked.basis.is_searched
            if found.asked.basis is Basis.NONE:
                continue
            if not found.rows or not all(map(math.isfinite, found.scores)):
                raise BundleDamaged("an answer without items, or with scores that are no numbers")
            answer = served.packed.response(found, served.version, Timing(0, 0, 0))
            # Equal ids: it is the same answer, packed and read back. No other answer is compared with it.
            hits = wire.SearchResponse.FromString(answer).hits
            if [hit.id for hit in hits] != [retriever.catalogue.ids[row] for row in found.rows]:
                raise BundleDamaged("an answer that holds other items than were found")
    if silent:
        raise BundleDamaged("the query tower gives the zero vector for all of them")
    if unknown:
        raise BundleDamaged("none of them says anything to the query tower")


def _make_ready(served: "Served", place: Path) -> None:
    from serving import ready

    try:
        ready.write(place, served.manifest, served.retriever.catalogue, served.packed)
    except OSError as error:  # every worker will build its own
        sys.stderr.write(f"{WARNING}no catalogue is made ready in {place}: {error.strerror or error}\n")


def _encode_item(served: "Served", folder: Path) -> None:
    from serving.encoder import Encoder
    from serving.query import QueryForm

    encoder = Encoder(folder, served.manifest, side="item")
    blank = QueryForm(encoder.inputs.features).blank
    encoder.vectors(encoder.arrays([blank]))


def _own_memory() -> int:
    """Bytes of memory that this process shares with no file, where the system tells them apart."""
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


if __name__ == "__main__":
    sys.exit(main())
