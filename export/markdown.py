"""What the pages of gates and benches are put together from."""

from collections.abc import Collection, Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> str:
    """A table in Markdown.

    Args:
        alignment: a letter a column, `r` for right.
    """
    rules = ["--:" if each == "r" else ":--" for each in alignment]
    lines = [heads, rules, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def picture(name: str, text: str, plots: Collection[str]) -> str:
    """A picture in Markdown, if it is among those that were drawn."""
    return f"![{text}]({name})" if name in plots else ""
