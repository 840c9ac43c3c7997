"""Runs the service's benchmark of bundles in a process of its own, where a crash ends nothing else.

`export` must not import `serving`, so the module is started by name. It returns a JSON document.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from twinspire.protos import entry_points
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.system.signals import signal_name
from twinspire.train.paths import ROOT

PATIENCE = 1800.0  # longest run in seconds
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
MAX_LENGTH = 300  # characters of an error


class ProcessFailure(NamedTuple):
    """The process failed."""

    bundle: str  # at fault, by its name in the request; empty where that is unknown
    text: str  # the step, and what happened


def ask(
    request: Mapping[str, Any], scratch: Path, threads: int = 1, patience: float = PATIENCE
) -> dict[str, Any] | ProcessFailure:
    """The response of `twinspire.serving.benchmark.bundle_benchmark` to a request, within `patience` seconds.

    `scratch` is a folder for the request; with `threads` 0 the process's libraries choose their number.
    """
    path = scratch / "request.json"
    path.write_text(json.dumps(request))
    try:
        done = subprocess.run(
            entry_points.command(entry_points.BUNDLE_BENCHMARK, str(path)),
            capture_output=True,
            text=True,
            errors="replace",
            cwd=ROOT,
            env={**os.environ, **(dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {})},
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        stderr = (error.stderr or b"").decode(errors="replace")
        return _failure(_last_step(stderr), f"the process did not end within {patience:g} seconds")
    at = _last_step(done.stderr)
    if done.returncode < 0:
        return _failure(at, f"the process was killed by {signal_name(-done.returncode)}")
    try:
        document: dict[str, Any] = parse_json(done.stdout)
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        return _failure(at, f"the process ended with exit code {done.returncode} and no answer: {last}")
    failed = document.get("failed")
    return document if failed is None else _failure(failed, failed["error"])


def ask_of_bundle(folder: Path, request: Mapping[str, Any], patience: float = PATIENCE) -> dict[str, Any]:
    """The response to a request of one bundle, on one thread, within `patience` seconds.

    Raises:
        BundleDamaged: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="twinspire-bench-") as scratch:
        whole = {**request, "bundle": str(folder.absolute()), "threads": 1}
        found = ask(whole, Path(scratch), patience=patience)
    if isinstance(found, ProcessFailure):
        raise BundleDamaged(f"{folder}: the retriever cannot be measured: {found.text}")
    return found


def _last_step(stderr: str) -> dict[str, str]:
    prefix = entry_points.BENCHMARK_STEP
    steps = [line.removeprefix(prefix) for line in stderr.splitlines() if line.startswith(prefix)]
    found: dict[str, str] = json.loads(steps[-1]) if steps else {"bundle": "", "step": "starting"}
    return found


def _failure(at: Mapping[str, str], happened: str) -> ProcessFailure:
    words = re.sub(r"(?<!\S)/\S*/", "", " ".join(happened.split()))  # without folders of this machine
    cut = words if len(words) <= MAX_LENGTH else f"{words[: MAX_LENGTH - 1]}…"
    return ProcessFailure(at["bundle"], f"{at['step']}: {cut}")
