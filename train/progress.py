"""Progress of the commands of `python -m twinspire.train` and `python -m twinspire.export`, on stderr."""

import os
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# stdout belongs to the result. Of several processes that train together, the first shows progress.
_IS_FIRST = os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
# Messages are plain texts: a name of a file in one may have brackets, which are no markup.
PROGRESS = Console(stderr=True, quiet=not _IS_FIRST, highlight=False, markup=False)
LINE_SECONDS = 10.0


class ProgressLines(Progress):
    """Writes a line every `LINE_SECONDS`, for an output that is no terminal, where rich shows nothing."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True)
        self._shown_at = self.get_time()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count steps of a task."""
        super().advance(task_id, advance)
        self._show(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task."""
        super().update(task_id, **changes)
        self._show(task_id)

    def _show(self, task_id: TaskID) -> None:
        now, task = self.get_time(), self._tasks[task_id]
        if now < self._shown_at + LINE_SECONDS:
            return
        self._shown_at = now
        total = "" if task.total is None else f" of {task.total:,.0f}"
        left = "" if task.time_remaining is None else f", {task.time_remaining:.0f} s left"
        text = f"{task.description} {task.completed:,.0f}{total}{left}"
        self.console.print(text, highlight=False, markup=False)


def progress_bar(console: Console, transient: bool = False) -> Progress:
    """A bar with the count, the time spent and the time left; lines where the output is no terminal."""
    if not console.is_interactive:
        return ProgressLines(console)
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
