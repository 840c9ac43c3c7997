"""`python -m twinspire.serving COMMAND`; each command has --help.

The commands are serve, gateway, search, info, status, batch, items, token, demo and doctor.
"""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split
import sys
from argparse import ArgumentParser

from twinspire.protos.cli import Command, add_command, command_line, execute
from twinspire.protos.system.logs import log_to_stderr
from twinspire.serving.cli import arguments, commands, gateway, tables
from twinspire.serving.cli.client_commands import add_commands
from twinspire.serving.cli.gateway import add_arguments as add_gateway
from twinspire.serving.doctor import add_doctor
from twinspire.serving.security.tokens import Role


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

    arguments.add_serve(add("serve", "Serve over gRPC until SIGTERM or Ctrl-C.", commands.serve))
    add_commands(subparsers)
    add_gateway(add("gateway", "Answer over HTTP and JSON for a service.", gateway.run))
    demo = add(
        "demo", "Serve, search for the bundle's first examples, summarise, and stop.", commands.run_demo
    )
    arguments.add_source(demo)
    token = add("token", "Make a bearer token, and its entry for the token file.", commands.token)
    token.add_argument("--name", required=True, help="name of its user, for logs and rate limits")
    roles = [role.name.lower() for role in Role if role is not Role.ANYONE]
    token.add_argument("--role", choices=roles, default="reader", help="role of the token (%(default)s)")
    add_doctor(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
