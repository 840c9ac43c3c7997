"""What `python -m tests.load` prints, and how it fails; in this process, and in one of its own."""

import json
import subprocess
import sys
from functools import partial
from typing import Any

from tests.load.__main__ import main
from tests.serving.cli import test_commands
from tests.serving.conftest import ROOT

document = partial(test_commands.document, main=main)
failure = partial(test_commands.failure, main=main)
misuse = partial(test_commands.misuse, main=main)


def measured(*arguments: str) -> Any:
    """The report of a command in a process of its own."""
    command = [sys.executable, "-m", "tests.load", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
