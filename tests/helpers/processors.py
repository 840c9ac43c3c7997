"""Other processors, as far as one can stand in for them: environments that choose other kernels.

OpenBLAS, which numpy multiplies matrices with, takes the kernels of the processor that `OPENBLAS_CORETYPE`
names. numpy's own loops leave out the instructions that `NPY_DISABLE_CPU_FEATURES` names. Both read their
variable once, at import, so each environment needs a process of its own.

ONNX Runtime has no such variable; `tests/export/onnx/test_processors.py` varies the options of a session.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers import tables
from tests.helpers.scores import Hits, difference
from tests.helpers.serving.answering import Answers

ROOT = Path(__file__).parents[2]
HASWELL = "OpenBLAS for Haswell, 2 threads"


def environments() -> dict[str, dict[str, str]]:
    """What it stands for -> the environment of a process."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # none beyond the baseline
    kernels = {
        HASWELL: {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "2"},
        "OpenBLAS for Nehalem, 1 thread, numpy without SIMD": {
            "OPENBLAS_CORETYPE": "Nehalem",
            "OMP_NUM_THREADS": "1",
            "NPY_DISABLE_CPU_FEATURES": " ".join(found),
        },
        "OpenBLAS for Prescott, 2 threads": {"OPENBLAS_CORETYPE": "Prescott", "OMP_NUM_THREADS": "2"},
    }
    if not {"X86_V3", "AVX2"} & {*found}:  # Haswell's kernels would be illegal instructions here
        del kernels[HASWELL]
    # pytest's own variables would make a second pytest take itself for a part of the first.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {name: {**inherited, **changed} for name, changed in kernels.items()}


ENVIRONMENTS = environments()


def python(name: str, *arguments: str) -> str:
    """What a Python in this environment prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENTS[name],
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers_in(name: str, folders: Sequence[Path]) -> list[Answers]:
    """The answers of some bundles in this environment."""
    document: Any = json.loads(python(name, "-m", "tests.helpers.serving.answering", *map(str, folders)))
    kernels = ENVIRONMENTS[name]["OPENBLAS_CORETYPE"]
    if platform.machine() in ("x86_64", "AMD64"):  # or the environment has changed nothing
        assert {"Prescott": "Katmai"}.get(kernels, kernels) in document["kernels"]
    answers: list[Answers] = document["answers"]
    return answers


def assert_same(name: str, expected: Answers, found: Answers) -> None:
    """All answers are those that each query gets alone, whatever the size of its batch."""
    most = 0.0
    for k, batches in found.items():
        for size, answers in batches.items():
            alone = expected[k]["1"]
            texts = [difference(*pair) for pair in zip(alone, answers, strict=True)]
            assert not any(texts), (name, k, size, [text for text in texts if text])
            most = max(most, *map(largest, alone, answers))
    tables.add("largest difference of two scores in one place", f"{name:60} {most:.1e}")


def largest(expected: Hits, found: Hits) -> float:
    """The largest difference of two scores in the same place."""
    return max(abs(one[1] - other[1]) for one, other in zip(expected, found, strict=True))
