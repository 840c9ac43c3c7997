"""What the command lines of train and export share; `protos/cli.py` runs them."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from twinspire.protos import cli
from twinspire.protos.errors import ConfigError
from twinspire.train.interrupts import answering
from twinspire.train.paths import CACHE, CONFIGS

DEFAULT_CONFIG = CONFIGS / "pydocs-small.toml"  # that of the Makefile


def add_experiment_command(
    commands: Any,
    name: str,
    run: Callable[[Namespace], cli.Document | None],
    show: Callable[[cli.Document, Console], None],
    text: str | None = None,
) -> ArgumentParser:
    """Add a subcommand that reads an experiment from `--config`.

    Args:
        text: its help; the docstring of `run` by default.
    """
    command = cli.add_command(commands, name, text or run.__doc__, cli.document_command(run, show))
    command.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        help="the experiment's TOML (default: %(default)s)",
    )
    return command


def execute(parser: ArgumentParser) -> int:
    """Run the command that the process was started with, and return its exit code."""
    console = partial(Console, highlight=False, markup=False)
    with answering():
        return cli.execute(parser, console=console, folder=CACHE, usage_errors=(ConfigError,))
