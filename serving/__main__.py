"""`python -m twinspire.serving COMMAND`; each command has --help.

The commands are serve, gateway, search, info, status, batch, items, token, demo and doctor.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from rich.console import Console

from twinspire.protos.cli import (
    Command,
    Result,
    UsageError,
    add_command,
    command_line,
    execute,
    print_result,
    show_warnings,
)
from twinspire.protos.figures import WARNINGS
from twinspire.protos.system.logs import log_to_stderr
from twinspire.serving.cli import arguments, gateway, tables
from twinspire.serving.cli.client_commands import add_commands
from twinspire.serving.cli.gateway import add_arguments as add_gateway
from twinspire.serving.doctor import add_doctor
from twinspire.serving.security.tokens import Role, new_token


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 on failure, 2 on wrong arguments.
    """
    log_to_stderr()
    return execute(_parser(), argv, console=tables.console)


def _parser() -> ArgumentParser:
    parser = command_line("python -m twinspire.serving", "Serve a bundle, and query a server.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Command) -> ArgumentParser:
        return add_command(subparsers, name, text, run)

    arguments.add_serve(add("serve", "Serve over gRPC until SIGTERM or Ctrl-C.", _serve))
    add_commands(subparsers)
    add_gateway(add("gateway", "Answer over HTTP and JSON for a service.", gateway.run))
    demo = add("demo", "Serve, search for the bundle's first examples, summarise, and stop.", run_demo)
    arguments.add_source(demo)
    token = add("token", "Make a bearer token, and its entry for the token file.", _token)
    token.add_argument("--name", required=True, help="name of its user, for logs and rate limits")
    roles = [role.name.lower() for role in Role if role is not Role.ANYONE]
    token.add_argument("--role", choices=roles, default="reader", help="role of the token (%(default)s)")
    add_doctor(subparsers)
    return parser


def _serve(parsed: Namespace) -> None:
    """Serve until SIGTERM or SIGINT; print the result as soon as requests are answered."""
    from twinspire.serving import service

    config = arguments.service_config(parsed)

    def ready(serving: dict[str, Any]) -> None:
        print_result((serving, lambda console: None), parsed.json, tables.console)

    try:
        service.serve(config, ready)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _token(parsed: Namespace) -> Result:
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
    output = Console(stderr=True, highlight=False, markup=False) if parsed.json else tables.console()
    document = demo.run(folder, output)

    def show(console: Console) -> None:
        console.print("6/6  summary", highlight=False)
        tables.show_pairs(console, demo.summary(document["manifest"]))
        show_warnings(document["manifest"]["quality"].get(WARNINGS, ()), console)

    return document, show


if __name__ == "__main__":
    sys.exit(main())
