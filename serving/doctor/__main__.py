"""`python -m serving.doctor`: the command `doctor` alone, for a Python that has no packages yet."""

import sys

from protos.cli import command_line, execute
from serving.doctor.command import PlainConsole, add_doctor


def main() -> int:
    """Run the checks.

    Returns:
        0 if nothing is wrong, 1 if something has to be done, 2 on wrong arguments.
    """
    parser = command_line("python -m serving", "Check this machine.")
    add_doctor(parser.add_subparsers(dest="command", required=True, metavar="COMMAND"))
    return execute(parser, ["doctor", *sys.argv[1:]], console=PlainConsole)


if __name__ == "__main__":
    sys.exit(main())
