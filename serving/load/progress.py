"""What the person who waits sees of a load test, on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress(seconds: float) -> Iterator[Any]:
    """What says what is being done, and what says that so many seconds more of it are over.

    A bar that drew itself in a thread of its own would take the interpreter from the load.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("load", total=seconds)

        def say(text: str) -> None:
            bar.update(task, description=text, refresh=True)

        def tick(more: float) -> None:
            bar.update(task, advance=more, refresh=True)

        yield say, tick
