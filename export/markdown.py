"""What model cards and reports are made of: tables, pictures, and text from outside that is shown as it is.

Names, versions, licences, errors and so on come from data, manifests, the registry and other machines. MLflow
and code hosts render Markdown with HTML in it, so each of them goes through `plain` or `code`.
"""

import html
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

_INLINE = re.compile(r"[\\`*\[\]~]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word marks nothing
_BLOCK = re.compile(r"^(?:[-+=#]|\d+(?=[.)](?:\s|$)))")  # at the start of a line: a list, a rule or a heading
_LINK = re.compile(
    r"://|www\.|mailto:|xmpp:|[\w.+-]@[\w-]+\.\w", re.IGNORECASE
)  # what GitHub's Markdown makes a link of
_TICKS = re.compile("`+")


def plain(value: object, limit: int = 0) -> str:
    """Text from outside, on one line, as Markdown without HTML, emphasis, links or block marks.

    Args:
        value: shown as `str` gives it.
        limit: characters of the value that are shown; 0 for all.
    """
    text = one_line(value, limit)
    if _LINK.search(text):
        return code(text)
    text = _INLINE.sub(r"\\\g<0>", html.escape(text, quote=False)).replace("|", "&#124;")
    return _BLOCK.sub(lambda mark: _shielded(mark[0]), text)


def code(value: object, limit: int = 0) -> str:
    """As `plain`, as a code span, in which Markdown and HTML mean nothing."""
    text = one_line(value, limit).replace("|", "¦")  # in a table a `|` ends the cell even inside a span
    ticks = "`" * (max(map(len, _TICKS.findall(text)), default=0) + 1)
    space = " " if not text or "`" in (text[0], text[-1]) else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def one_line(value: object, limit: int = 0) -> str:
    """Text from outside on one line, without control characters or marks that reverse the reading direction.

    Args:
        limit: characters to cut it to; 0 for none.
    """
    kept = "".join(" " if _is_control(each) else each for each in str(value))
    text = " ".join(kept.split())
    return text if not limit or len(text) <= limit else f"{text[: limit - 1]}…"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], alignment: str) -> str:
    """A table in Markdown.

    Args:
        heads: Markdown on one line each, as are the cells of the rows.
        alignment: a letter a column, `r` for right.
    """
    rules = ["--:" if each == "r" else ":--" for each in alignment]
    lines = [heads, rules, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def picture(name: str, text: str, plots: Collection[str]) -> str:
    """A picture in Markdown, if it is among those that were drawn."""
    return f"![{text}]({name})" if name in plots else ""


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc" or unicodedata.bidirectional(character) in _DIRECTIONS


def _shielded(mark: str) -> str:
    """A mark that begins a block, so that it does not: a backslash before it, or behind the number."""
    return f"{mark}\\" if mark[-1].isdigit() else f"\\{mark}"


_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
