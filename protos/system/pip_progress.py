"""Shows what pip does as a line every few seconds: `pip install --progress-bar off ... | pip_progress.py N`.

`make setup` runs it before anything is installed, so it takes the standard library alone. pip itself shows no
progress where its output is a file.
"""

import sys
import time
from collections.abc import Iterable
from typing import TextIO

INTERVAL_S = 5.0


def show(lines: Iterable[str], total: int, output: TextIO) -> None:
    """Write a line for each step that takes long, and for one package every `INTERVAL_S` seconds.

    Args:
        lines: what pip prints.
        total: how many packages are to be installed.
    """
    collected, shown_at = 0, time.monotonic()
    for line in lines:
        action, _, rest = line.strip().partition(" ")
        collected += action == "Collecting"
        if line.startswith("Installing collected packages"):
            output.write("installing all of them\n")
        elif action in ("Collecting", "Building") and time.monotonic() >= shown_at + INTERVAL_S:
            output.write(f"{action.lower()} {rest.partition(' (')[0]}: {collected} of about {total}\n")
            shown_at = time.monotonic()
        output.flush()


if __name__ == "__main__":
    show(sys.stdin, int(sys.argv[1]), sys.stderr)
