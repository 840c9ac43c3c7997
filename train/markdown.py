"""Markdown for model cards and reports: tables, images, and escaped text.

Names, versions, licences and errors come from data, manifests, the registry and other machines. MLflow and
code hosts render the HTML in Markdown, so each such text must pass through `plain` or `code`.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

_INLINE = re.compile(r"[\\`*\[\]~]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is literal
_BLOCK = re.compile(r"^(?:[-+=#]|\d+(?=[.)](?:\s|$)))")  # starts a list, a rule or a heading
_LINK = re.compile(
    r"://|www\.|mailto:|xmpp:|[\w.+-]@[\w-]+\.\w", re.IGNORECASE
)  # what GitHub's Markdown turns into a link
_TICKS = re.compile("`+")
_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # bidirectional controls


def plain(value: object, limit: int = 0) -> str:
    """Untrusted text on one line, escaped so that Markdown and HTML in it render literally.

    Args:
        value: converted by `str`.
        limit: characters of the value that are shown; 0 for all.
    """
    text = one_line(value, limit)
    if _LINK.search(text):
        return code(text)
    text = _INLINE.sub(r"\\\g<0>", html.escape(text, quote=False)).replace("|", "&#124;")
    # A mark that starts a block has a backslash before it, or after a number.
    return _BLOCK.sub(lambda mark: f"{mark[0]}\\" if mark[0][-1].isdigit() else f"\\{mark[0]}", text)


def code(value: object, limit: int = 0) -> str:
    """As `plain`, but as a code span, in which Markdown and HTML are literal."""
    text = one_line(value, limit).replace("|", "¦")  # in a table, `|` ends the cell even in a code span
    ticks = "`" * (max(map(len, _TICKS.findall(text)), default=0) + 1)
    space = " " if not text or "`" in (text[0], text[-1]) else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def one_line(value: object, limit: int = 0) -> str:
    """Untrusted text on one line, without control characters or marks of bidirectional text.

    Args:
        limit: most characters, cut with an ellipsis; 0 for no limit.
    """
    kept = "".join(
        " " if unicodedata.category(each) == "Cc" or unicodedata.bidirectional(each) in _DIRECTIONS else each
        for each in str(value)
    )
    text = " ".join(kept.split())
    return text if not limit or len(text) <= limit else f"{text[: limit - 1]}…"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> str:
    """A table in Markdown, whose columns are also aligned where it is read as plain text.

    Args:
        heads: one line of Markdown each, as are the cells of the rows.
        alignment: one letter a column, `l` or `r`.
    """
    lines = [heads, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *map(cell_len, column)) for column in zip(*lines, strict=True)]
    rules = [
        f"{'-' * (width - 1)}:" if each == "r" else f":{'-' * (width - 1)}"
        for each, width in zip(alignment, widths, strict=True)
    ]
    padded = [[_padded(*each) for each in zip(line, alignment, widths, strict=True)] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rules, *padded[1:]))


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], alignment: str) -> str:
    """A table as a code block with aligned columns, for pages that show tables without any.

    The MLflow UI drops alignment and spacing of the tables in a description.

    Args:
        heads, rows: plain text; code blocks have no Markdown.
        alignment: one letter a column, `l` or `r`.
    """
    lines = [[one_line(cell).replace("`", "'") for cell in line] for line in (heads, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "  ".join(_padded(*each) for each in zip(line, alignment, widths, strict=True)) for line in lines
    ]
    return "\n".join(["```text", *(line.rstrip() for line in padded), "```"])


def _padded(cell: str, alignment: str, width: int) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if alignment == "r" else cell + space
