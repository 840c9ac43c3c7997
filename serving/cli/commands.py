"""The commands of `python -m serving` that serve or measure; see also `client_commands.py`."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from protos.cli import Result, UsageError, print_result
from protos.errors import MissingStage
from serving.cli import arguments, demo, tables
from serving.security.tokens import new_token


def serve(parsed: Namespace) -> None:
    """Serve until SIGTERM or SIGINT; print the result as soon as requests are answered."""
    from serving import service

    config = arguments.service_config(parsed)

    def ready(serving: service.Serving) -> None:
        print_result((serving.document(), lambda console: None), parsed.json, tables.console)

    try:
        service.serve(config, ready)
    except ValueError as error:
        raise UsageError(str(error)) from None


def token(parsed: Namespace) -> Result:
    """Make a token, alone on stdout and shown only once, and its entry for the token file on stderr."""
    secret, entry = new_token(parsed.name, parsed.role)

    def show(console: Console) -> None:
        stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        stderr.print("Add this to the file that --tokens names; the token itself is shown only now.\n")
        stderr.print(entry)
        console.print(secret, markup=False, highlight=False, soft_wrap=True)

    return {"token": secret, "entry": entry}, show


def run_demo(parsed: Namespace) -> Result:
    """Serve, search for the first examples, summarise, and stop."""
    folder = arguments.folder(parsed)
    output = Console(stderr=True) if parsed.json else tables.console()
    document = demo.run(folder, output)

    def show(console: Console) -> None:
        console.print("6/6  summary", highlight=False)
        tables.show_pairs(console, demo.summary(document["manifest"]))

    return document, show


def load_test(parsed: Namespace) -> Result:
    """Measure a bundle's service under load, or load a running server of this machine."""
    with _needs_load("load test"):
        from serving.cli import loadtest
    return loadtest.run(parsed)


def swap_test(parsed: Namespace) -> Result:
    """Swap two bundles under load, and check every answer."""
    with _needs_load("swap test"):
        from serving.cli import swaptest
    return swaptest.run(parsed)


def filter_test(parsed: Namespace) -> Result:
    """Measure searches with filters: recall, completeness, plans and times."""
    with _needs_load("filter test"):
        from serving.cli import filtertest
    return filtertest.run(parsed)


def live_test(parsed: Namespace) -> Result:
    """Test live items: lost writes, wrong answers, swaps, throughput and times, filters."""
    with _needs_load("live test"):
        from serving.cli import livetest
    return livetest.run(parsed)


def gateway_test(parsed: Namespace) -> Result:
    """Measure the gateway beside FastAPI with the same search in process."""
    with _needs_load("gateway test"):
        from serving.cli import gatewaytest
    return gatewaytest.run(parsed)


@contextmanager
def _needs_load(test: str) -> Iterator[None]:
    """Import the modules of a test within the block; their libraries are in the extra `load`.

    Raises:
        MissingStage: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingStage(f"the {test} needs {error.name}; install it with: pip install .[load]") from None
