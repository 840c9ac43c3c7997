"""Runs commands in the process of the tests, because imports would take most of their time."""

import io
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout


def run_here(main: Callable[[list[str]], int], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """What a command returns and prints; an error that it does not catch is raised.

    Stdout and stderr of the whole process are redirected meanwhile.
    """
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        try:
            code = main([*arguments])
        except SystemExit as ended:  # wrong arguments
            assert isinstance(ended.code, int), ended.code
            code = ended.code
    return subprocess.CompletedProcess([*arguments], code, stdout.getvalue(), stderr.getvalue())
