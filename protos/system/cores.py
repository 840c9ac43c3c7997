"""The processor cores that a computation may use."""

import os

THREADS_VARIABLE = "OMP_NUM_THREADS"  # of OpenMP, by which torch and NumPy choose their own number


def usable_cores() -> int:
    """The cores that this process may use: fewer than the machine has where its affinity says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(asked: int, processes: int = 1) -> int:
    """The number of threads of a computation.

    Args:
        asked: the number, from a configuration; 0 takes that of the environment variable OMP_NUM_THREADS, and
            where it is not set, all usable cores.
        processes: that compute side by side; the cores are divided among them, and the variable counts for
            each process.
    """
    if asked:
        return asked
    given = os.environ.get(THREADS_VARIABLE, "").partition(",")[0].strip()  # "4,2": of nested levels
    if given.isascii() and given.isdigit() and int(given) > 0:
        return int(given)
    return max(1, usable_cores() // processes)
