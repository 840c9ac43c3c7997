"""Two processes that train together, each with the environment that a launcher gives it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.helpers.ports import held_port
from tests.helpers.warm import WarmPython

LONGEST = 900  # seconds that the processes of a test may take

# The process calls a function of a module with its `Rank`, and with texts.
CODE = """
import importlib, sys
from twinspire.train.config.training import TrainingConfig
from twinspire.train.training.process import joined
module, function, *texts = sys.argv[1:]
with joined(TrainingConfig(threads=1)) as process:
    getattr(importlib.import_module(module), function)(process, *texts)
    process.wait()
"""


@contextmanager
def environments(count: int = 2) -> Iterator[list[dict[str, str]]]:
    """Of each rank on this machine, as torchrun sets them."""
    with held_port() as port:
        given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        given |= {"LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
        yield [{**os.environ, **given, "RANK": str(rank)} for rank in range(count)]


def outcomes(commands: Sequence[tuple[Mapping[str, str], tuple[str, ...]]]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of processes that run side by side.

    Args:
        commands: of each, the environment and the arguments of Python.
    """
    processes = [WarmPython(*arguments, env=environment) for environment, arguments in commands]
    try:
        # Two ranks wait for each other at each exchange, which a busy machine makes a hundred times as long.
        found = [process.communicate(timeout=LONGEST) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, found, strict=True)]


def on_two_ranks(check: Callable[..., None], *texts: Any) -> None:
    """Call a function of a module in both of two ranks; where it fails, this fails with what it says.

    Args:
        check: its first argument is the `Rank`; further ones are `texts`.
    """
    arguments = ("-c", CODE, check.__module__, check.__name__, *map(str, texts))
    with environments() as ranks:
        found = outcomes([(environment, arguments) for environment in ranks])
    assert [code for code, *_ in found] == [0, 0], "\n".join(said for _, _, said in found)
