"""Measuring in a process of its own, where no torch is loaded and a crash is nobody else's."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.documents import parse_json
from train.places import ROOT

MODULE = "serving.compare"
STEP = "step: "  # what it puts before each step on standard error
PATIENCE = 1800.0  # seconds that one request may take
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LONGEST = 300  # characters of an error that people are shown


@dataclass(frozen=True)
class Failure:
    """The process did not come to its end.

    Args:
        bundle: whose fault that is, by the name in the request; empty where that cannot be told.
        text: what it was doing, and what happened.
    """

    bundle: str
    text: str


def ask(
    request: Mapping[str, Any], scratch: Path, threads: int = 1, patience: float = PATIENCE
) -> dict[str, Any] | Failure:
    """The answer of `python -m serving.compare` to a request.

    Args:
        scratch: a folder to put the request into.
        threads: that the process's libraries may use; 0 leaves it to them.
        patience: seconds, after which the process is ended.
    """
    path = scratch / "request.json"
    path.write_text(json.dumps(request))
    budget = dict.fromkeys(LIBRARIES, str(threads)) if threads else {}
    command = [sys.executable, "-m", MODULE, str(path)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=ROOT,
            env={**os.environ, **budget},
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        return _failure(_last_step(said), f"did not end within {patience:g} seconds")
    at = _last_step(done.stderr)
    if done.returncode < 0:
        return _failure(at, f"killed the process that did it ({_signal(-done.returncode)})")
    try:
        document: dict[str, Any] = parse_json(done.stdout)
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        return _failure(at, f"ended the process that did it with {done.returncode}: {last}")
    failed = document.get("failed")
    return document if failed is None else _failure(failed, failed["error"])


def _last_step(stderr: str) -> dict[str, str]:
    steps = [line.removeprefix(STEP) for line in stderr.splitlines() if line.startswith(STEP)]
    found: dict[str, str] = json.loads(steps[-1]) if steps else {"bundle": "", "step": "starting"}
    return found


def _failure(at: Mapping[str, str], happened: str) -> Failure:
    words = re.sub(r"(?<!\S)/\S*/", "", " ".join(happened.split()))  # where it lies here is no news
    cut = words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"
    return Failure(at["bundle"], f"{at['step']}: {cut}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
