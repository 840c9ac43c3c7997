"""What a command prints of a report, as text."""

import io
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console


def shown(show: Callable[[Console, Any], None], report: Mapping[str, Any]) -> str:
    """The text.

    Args:
        show: of a command.
        report: that the command wrote as JSON.
    """
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    show(console, report)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]
