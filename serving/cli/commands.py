"""The commands of `python -m twinspire.serving` that serve; see also `client_commands.py`."""

from argparse import Namespace
from typing import Any

from rich.console import Console

from twinspire.protos.cli import Result, UsageError, print_result, show_warnings
from twinspire.protos.figures import WARNINGS
from twinspire.serving.cli import arguments, tables
from twinspire.serving.security.tokens import new_token


def serve(parsed: Namespace) -> None:
    """Serve until SIGTERM or SIGINT; print the result as soon as requests are answered."""
    from twinspire.serving import service

    config = arguments.service_config(parsed)

    def ready(serving: dict[str, Any]) -> None:
        print_result((serving, lambda console: None), parsed.json, tables.console)

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
    from twinspire.serving.cli import demo  # which imports the server

    folder = arguments.folder(parsed)
    output = Console(stderr=True) if parsed.json else tables.console()
    document = demo.run(folder, output)

    def show(console: Console) -> None:
        console.print("6/6  summary", highlight=False)
        tables.show_pairs(console, demo.summary(document["manifest"]))
        show_warnings(document["manifest"]["quality"].get(WARNINGS, ()), console)

    return document, show
