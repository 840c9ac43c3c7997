"""Validates a bundle before it is served, in a process of its own, so that a damaged bundle cannot harm the
service.

    python -m twinspire.serving.rollout.bundle_validation .cache/bundles/3f2a9c0d1e5b   # prints JSON

The process verifies the files, encodes a large batch of the longest values, loads what a worker loads, and
searches for the bundle's own examples. A damaged graph may crash the process that searches in it, and a large
bundle or a tower with huge tensors may use up its memory; here all of them are errors like any other. The
process bounds its own memory by what the machine leaves for each worker. A new bundle is loaded while the old
one still answers, and each worker loads its own. So all workers need the memory at once; the old bundle is
freed later.

If the bundle is valid, the process also writes its shared catalogue for the workers
(`segments/shared_catalogue.py`).

The process does not compare the bundle with the previous one: name, dimension and features may differ. To
move the alias to such a bundle is the operator's decision.
"""

import argparse
import json
import logging
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from twinspire.protos import bundle, entry_points
from twinspire.protos.bundle import Manifest
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged, BundleError, TwinspireError, Unavailable
from twinspire.protos.features import (
    ITEM_VOCABULARY,
    CategoryFeature,
    HistoryFeature,
    Side,
    TextFeature,
    TowerInputs,
)
from twinspire.protos.system.signals import signal_name

if TYPE_CHECKING:
    from twinspire.serving.rollout.loaded_bundle import LoadedBundle

log = logging.getLogger(__name__)

NICE = 10
MIB = 1 << 20
GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
OUT_OF_MEMORY_SCORE = Path("/proc/self/oom_score_adj")
# Timeout: SECONDS + size of the bundle / BYTES_PER_SECOND.
SECONDS = 120.0
BYTES_PER_SECOND = 10_000_000
POLL_SECONDS = 0.05  # between two checks whether the process has ended
STOPPED = (-signal.SIGTERM, -signal.SIGINT)  # exit codes after a signal to the process group
STOP_SECONDS = 1.0  # in which such a signal reaches this process too
OUTPUT_SECONDS = 2.0  # to read what the process wrote, after it has ended
BATCH = 32  # queries in one batch; as many as a worker encodes together by default
VALUES = 1000  # strings in a feature that takes several; as many as a request may have by default
UNAVAILABLE = 75  # exit code (EX_TEMPFAIL): the server of the index does not answer
MAX_ERROR_LENGTH = 500  # characters of an error that are shown
ERROR, WARNING = "error: ", "warning: "  # prefixes of lines that the process writes
# Errors of Python, NumPy and ONNX Runtime where an allocation has failed.
OUT_OF_MEMORY = re.compile(
    r"requested buffer of size (?P<bytes>\d+)|bad[ _]alloc|MemoryError|Unable to allocate|Not enough memory"
)


def validate_bundle(
    folder: Path,
    item_tower: bool = False,
    stop: threading.Event | None = None,
    ready: Path | None = None,
    copies: int = 1,
) -> float:
    """Load a bundle in another process and search for its examples.

    Args:
        item_tower: load and try the item tower too.
        stop: ends the validation.
        ready: where its shared catalogue is written; if that fails, the bundle is valid all the same.
        copies: processes that will load it; each has an equal part of the memory that the machine has left.

    Returns:
        Seconds to verify and load it and to answer the first queries.

    Raises:
        BundleDamaged: the bundle cannot be loaded, does not answer, or crashes the process.
        Unavailable: the bundle takes more memory than there is, the validation was stopped, or could not be
            started; or the index is on a server that does not answer.
    """
    size = sum(each.size for each in bundle.read_manifest(folder).served_files().values())
    seconds = SECONDS + size / BYTES_PER_SECOND
    command = entry_points.command(entry_points.BUNDLE_VALIDATION, str(folder), f"--copies={copies}")
    command += ["--item-tower"] if item_tower else []
    command += ["--ready", str(ready)] if ready else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
    except OSError as error:
        raise Unavailable(f"{folder.name}: cannot be validated: {error.strerror}") from None
    code, result, text = _await(process, seconds, stop)
    if code in STOPPED and stop is not None and stop.wait(STOP_SECONDS):
        code = None  # the same signal stops the service: the bundle has not failed
    if code is None and stop is not None and stop.is_set():
        raise Unavailable(f"{folder.name}: the validation was stopped")
    if code == 0:
        for warning in _marked(text, WARNING):
            log.warning("%s: %s", folder.name, warning)
        try:
            return float(parse_json(result)["load_s"])
        except (ValueError, TypeError, KeyError):
            raise BundleDamaged(f"{folder.name}: the validation printed no result") from None
    reason = f"{folder.name}: {_reason(code, text, seconds).replace(f'{folder.parent}/', '')}"
    raise Unavailable(reason) if code == UNAVAILABLE else BundleDamaged(reason)


def _await(
    process: "subprocess.Popen[bytes]", seconds: float, stop: threading.Event | None
) -> tuple[int | None, bytes, str]:
    """The exit code of a process, None if it had to be killed; and what it wrote."""
    until = time.monotonic() + seconds
    with process:  # closes the pipes
        try:
            while (code := process.poll()) is None:
                if time.monotonic() > until or (stop is not None and stop.is_set()):
                    break
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=POLL_SECONDS)
        finally:
            process.kill()  # does nothing to a process that has ended
        try:
            output, errors = process.communicate(timeout=OUTPUT_SECONDS)
        except subprocess.TimeoutExpired as held:  # a process that it has started keeps the pipes open
            output, errors = held.output or b"", held.stderr or b""
    return code, output, errors.decode(errors="replace").strip()


def _reason(code: int | None, text: str, seconds: float) -> str:
    """Why the validation failed, from the exit code, the standard error and the timeout of its process."""
    if code is None:
        return f"the validation was not done after {seconds:.0f} s"
    if code < 0:
        name = signal_name(-code)
        hint = ", most likely out of memory" if -code == signal.SIGKILL else ""
        return f"the validation was ended by {name}{hint}"
    last = _marked(text, ERROR) or text.splitlines()[-1:] or ["it does not say why"]
    return f"the validation failed: {last[-1][:MAX_ERROR_LENGTH]}"


def _marked(text: str, mark: str) -> list[str]:
    """The rest of each line that begins with a mark."""
    return [line.removeprefix(mark)[:MAX_ERROR_LENGTH] for line in text.splitlines() if line.startswith(mark)]


def main() -> int:
    """Validate the bundle that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m twinspire.serving.rollout.bundle_validation",
        description="Validate a bundle: load it, and search for its examples.",
    )
    parser.add_argument("folder", type=Path, help="folder of the bundle")
    parser.add_argument("--item-tower", action="store_true", help="try the item tower too")
    parser.add_argument("--ready", type=Path, metavar="FOLDER", help="write its shared catalogue there")
    parser.add_argument("--copies", type=int, default=1, help="processes that will load it (%(default)s)")
    arguments = parser.parse_args()
    os.nice(NICE)
    # Where memory runs out, the kernel is to end this process before all others.
    with suppress(OSError):  # not Linux, or not permitted
        OUT_OF_MEMORY_SCORE.write_text("1000")
    memory = available() // arguments.copies
    try:
        load_s = _try(arguments.folder, arguments.item_tower, arguments.ready, memory)
        sys.stdout.write(f"{json.dumps({'load_s': round(load_s, 3)})}\n")
    except TwinspireError as error:
        sys.stderr.write(f"{ERROR}{error}\n")
        return UNAVAILABLE if isinstance(error, Unavailable) else 1
    return 0


def _try(folder: Path, item_tower: bool, ready: Path | None, memory: int) -> float:
    """As `validate_bundle`, in this process, with a bound on the memory that each step may take."""
    from twinspire.serving.rollout.loaded_bundle import LoadedBundle

    logging.disable(logging.CRITICAL)
    _encode_longest(folder, bundle.read(folder, is_served=True), item_tower, memory)
    begun = time.perf_counter()
    with _within(memory, "loading it"):
        served = LoadedBundle.load(folder, item_tower=item_tower)
    load_s = time.perf_counter() - begun
    if not served.manifest.is_remote:
        _check_vectors(folder, served)
    with _within(memory, "answering its own examples"):
        _ask(served)
    if ready and not served.manifest.is_remote:
        _write_catalogue(served, ready)
    return load_s


def _encode_longest(folder: Path, manifest: Manifest, item_tower: bool, memory: int) -> None:
    """Encode a large batch, with the longest values that the towers read, and a blank item.

    Raises:
        BundleDamaged: a tower cannot be opened, or does not encode them.
        Unavailable: that takes more bytes than `memory`.
    """
    from twinspire.serving.retrieval.encoder import MAX_QUERIES, Encoder
    from twinspire.serving.retrieval.query import QueryForm

    sides: tuple[Side, ...] = ("query", "item") if item_tower else ("query",)
    for side in sides:
        count = MAX_QUERIES if side == "item" else BATCH
        what = f"encoding {count} of the longest {'items' if side == 'item' else 'queries'}"
        with _within(memory, what):
            encoder = Encoder(folder, manifest, side=side)
            row = _longest(encoder.inputs, manifest)
            encoder.unchecked(encoder.arrays([row] * count))
            if side == "item":
                encoder.vectors(encoder.arrays([QueryForm(encoder.inputs.features).blank]))


def _longest(inputs: TowerInputs, manifest: Manifest) -> dict[str, Any]:
    """Feature name -> the longest value that a tower reads, of items that it knows."""
    known = manifest.schema.vocabularies.get(ITEM_VOCABULARY, ())
    row: dict[str, Any] = {}
    for name, spec in inputs.features.items():
        row[name] = None
        if isinstance(spec, TextFeature):
            row[name] = ("a " * spec.longest)[: spec.longest]
        elif isinstance(spec, HistoryFeature):
            row[name] = [*islice(cycle(known), spec.longest)]
        elif isinstance(spec, CategoryFeature) and spec.multi:
            row[name] = ["a"] * VALUES
    return row


@contextmanager
def _within(most: int, what: str) -> Iterator[None]:
    """Bound what the block allocates.

    Args:
        most: bytes.
        what: the block does, for the error.

    Raises:
        Unavailable: it needs more, or a server that it calls does not answer.
        BundleError: it raised another error.
    """
    try:
        with limit_private_memory(most):
            yield
    except Exception as error:  # of the towers' runtime or the index, which share no other base
        failed = OUT_OF_MEMORY.search(repr(error))
        if failed:
            asked = f"; one allocation has {int(size) / MIB:,.0f} MiB" if (size := failed["bytes"]) else ""
            room = f"{most / MIB:,.0f} MiB that the machine leaves for each worker"
            raise Unavailable(f"{what} takes more memory than the {room}{asked}") from None
        if isinstance(error, BundleError | Unavailable):
            raise
        raise BundleDamaged(f"{what} failed: {error!r}") from None


@contextmanager
def limit_private_memory(more: int) -> Iterator[None]:
    """Let this process allocate at most `more` bytes within the block; an allocation beyond fails.

    It has no effect where the system does not count a process's private memory (other systems than Linux).
    """
    used = getattr(psutil.Process().memory_info(), "data", None)
    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if used is not None:
        most = min(each for each in (soft, hard, used + more) if each != resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def available(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Bytes that this process may still allocate, by the machine and its control groups (version 2)."""
    left, inner = [int(psutil.virtual_memory().available)], ""
    with suppress(OSError):
        rows = membership.read_text().splitlines()
        inner = next((row.removeprefix("0::/") for row in rows if row.startswith("0::")), "")
    for folder in (groups / inner, *(groups / inner).parents):  # in a container only `groups` is there
        with suppress(OSError, ValueError):  # no limit is the word `max`
            most, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            left.append(max(0, most - used + int(stat.get("inactive_file", 0))))
    return min(left)


def _check_vectors(folder: Path, served: "LoadedBundle") -> None:
    """Refuse vectors whose scores would be meaningless.

    Raises:
        BundleDamaged: vectors are all zero, or not of unit length.
    """
    from twinspire.protos.nearest.vectors import check_lengths

    try:
        check_lengths(served.retriever.item_vectors, served.manifest.score.has_padding_dim)
    except ValueError as error:
        raise BundleDamaged(f"{folder / bundle.VECTORS}: {error}") from None


def _ask(served: "LoadedBundle") -> None:
    """Search for the examples, and write the responses, as a request does.

    Raises:
        BundleDamaged: an answer is empty or has scores that are not finite; the query tower gives only zeros;
            or no example has a known word or item.
    """
    from twinspire.serving.retrieval.answer import Basis, Timing
    from twinspire.serving.retrieval.query import example_query

    retriever, examples = served.retriever, [example_query(each) for each in served.manifest.examples]
    all_zero = none_known = bool(examples)
    for start in range(0, len(examples), BATCH):
        encoded = retriever.encode(examples[start : start + BATCH])
        all_zero = all_zero and not encoded.vectors.any()
        for found in retriever.find(
            encoded, [retriever.search_options(10, (), False)] * len(encoded.contexts)
        ):
            none_known = none_known and not found.context.basis.is_searched
            if found.context.basis is Basis.NONE:
                continue
            if not found.rows or not all(map(math.isfinite, found.scores)):
                raise BundleDamaged("an example has an answer without items, or scores that are not finite")
            served.responses.response(found, served.version, Timing(0, 0, 0))
    if all_zero:
        raise BundleDamaged("the query tower gives the zero vector for all examples")
    if none_known:
        raise BundleDamaged("no example has a known word or item")


def _write_catalogue(served: "LoadedBundle", folder: Path) -> None:
    from twinspire.serving.segments import shared_catalogue

    try:
        shared_catalogue.write(
            folder, served.manifest, served.retriever.built.catalogue, served.responses.packed
        )
    except OSError as error:  # then every worker builds a catalogue of its own
        sys.stderr.write(f"{WARNING}no catalogue is made ready in {folder}: {error.strerror or error}\n")


if __name__ == "__main__":
    sys.exit(main())
