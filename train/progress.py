"""Progress of the commands of `python -m twinspire.train` and `python -m twinspire.export`, on stderr."""

import os

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# stdout belongs to the result. Of several processes that train together, the first shows progress.
_IS_FIRST = os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
PROGRESS = Console(stderr=True, quiet=not _IS_FIRST)


def progress_bar(console: Console, transient: bool = False) -> Progress:
    """A bar with the count, the time spent and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )
