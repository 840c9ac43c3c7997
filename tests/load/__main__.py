"""`python -m tests.load COMMAND`: the service under load; each command has --help.

The commands are loadtest, swaptest, filtertest, livetest, gatewaytest, remotetest and looptest.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split
import importlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial

from tests.load.cli import options
from twinspire.protos.cli import Result, add_command, command_line, execute
from twinspire.protos.errors import MissingStage
from twinspire.protos.system.logs import log_to_stderr
from twinspire.serving.cli import tables

# Name -> module, sentence, and what adds the options.
COMMANDS: dict[str, tuple[str, str, Callable[[ArgumentParser], None]]] = {
    "loadtest": ("measure_load", "Measure a bundle's service under load.", options.add_load_arguments),
    "swaptest": (
        "cli.swaptest",
        "Swap two bundles under load, and check every answer.",
        options.add_swap_arguments,
    ),
    "filtertest": (
        "cli.filtertest",
        "Measure searches with filters by the share that passes.",
        options.add_filter_arguments,
    ),
    "livetest": ("cli.livetest", "Test live items under load, kills and swaps.", options.add_live_arguments),
    "remotetest": (
        "measure_remote",
        "Compare hosts with few and many items on a vector database, and swap under load.",
        options.add_remote_arguments,
    ),
    "gatewaytest": ("measure_gateway", "Measure the gateway beside gRPC.", options.add_rounds_arguments),
    "looptest": ("cli.looptest", "Serve, record and retrain, with made viewers.", options.add_loop_arguments),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 on failure, 2 on wrong arguments.
    """
    log_to_stderr()
    parser = command_line("python -m tests.load", "Measure the service under load.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text, add_arguments) in COMMANDS.items():
        add_arguments(add_command(subparsers, name, text, partial(_run, name)))
    return execute(parser, argv, console=tables.console)


def _run(name: str, parsed: Namespace) -> Result:
    """Import the module of a command, and run it.

    Raises:
        MissingStage: a library is not installed.
    """
    try:
        module = importlib.import_module(f"tests.load.{COMMANDS[name][0]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("protos", "serving", "tests"):
            raise
        raise MissingStage(f"{name} needs {error.name}, which make setup installs") from None
    result: Result = module.run(parsed)
    return result


if __name__ == "__main__":
    sys.exit(main())
