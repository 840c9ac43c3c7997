"""`python -m twinspire.serving.gateway`: the gateway where no service is installed."""

from twinspire.serving import environment  # noqa: F401  # before gRPC is imported

# isort: split
import sys

from twinspire.protos.cli import command_line, execute
from twinspire.protos.system.logs import log_to_stderr
from twinspire.serving.cli import gateway, tables


def main(arguments: list[str] | None = None) -> int:
    """Answer until SIGTERM or Ctrl-C.

    Returns:
        0 on success, 1 on failure, 2 on wrong arguments.
    """
    log_to_stderr()
    parser = command_line("python -m twinspire.serving.gateway", "Answer over HTTP and JSON for a service.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run_command=gateway.run, command_parser=parser)
    gateway.add_arguments(parser)
    return execute(parser, arguments, console=tables.console)


if __name__ == "__main__":
    sys.exit(main())
