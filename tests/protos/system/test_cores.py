"""The number of threads of a computation."""

import os
import subprocess
import sys

import pytest

from twinspire.protos.system.cores import thread_count


@pytest.mark.parametrize(
    ("variable", "asked", "processes", "expected"),
    [
        ("3", 0, 1, 3),
        ("3", 0, 2, 3),  # the variable is of each process
        ("4,2", 0, 1, 4),
        (" 2 ", 0, 1, 2),
        ("3", 5, 1, 5),
        ("0", 0, 1, 6),
        ("-1", 0, 1, 6),
        ("many", 0, 1, 6),
        ("²", 0, 1, 6),
        ("", 0, 4, 1),
        (None, 0, 2, 3),
        (None, 0, 7, 1),
    ],
)
def test_the_configuration_comes_first_then_the_variable_then_the_cores(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, asked: int, processes: int, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr("twinspire.protos.system.cores.usable_cores", lambda: 6)
    assert thread_count(asked, processes) == expected


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not let a process choose its cores"
)
def test_cores_that_the_process_may_not_use_are_not_counted() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from twinspire.protos.system.cores import usable_cores; print(usable_cores())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
