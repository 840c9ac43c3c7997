"""What `python -m tests.load` prints, and how it fails."""

from functools import partial

from tests.load.__main__ import main
from tests.serving.cli import test_commands

document = partial(test_commands.document, main=main)
failure = partial(test_commands.failure, main=main)
misuse = partial(test_commands.misuse, main=main)
