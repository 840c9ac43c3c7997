"""Where the first sentence of a docstring ends; it is the query, the rest is the item's text."""

import re

from train.sources.tables import collapse

_SIGNATURE = re.compile(r"\A[\w.]+\([^\n]*\)(\s*->[^\n]*)?(\n|\Z)")
_RULE = re.compile(r"(?m)^[ \t]*([-=~^*#+_.])\1{2,}[ \t]*$")
_SECTION = re.compile(
    r"(?m)^\s*(:\w+[^\n]*:|@\w+|>>>|\.\. |[-*] |\d+\. |"
    r"(Args|Arguments|Parameters|Returns?|Raises|Examples?|Notes?|Usage|Yields):?\s*$)"
)
_END = re.compile(r"[.!?](?=\s+[^a-z\s])|[.!?]\s*\Z|[。！？]")
_ABBREVIATION = re.compile(r"(?i)\b(e\.g|i\.e|etc|cf|vs|resp|approx|fig|eq|al|dr|mr)\.\Z")


def split_docstring(docstring: str) -> tuple[str, str]:
    """First sentence without its full stop, and the rest; both on one line, both maybe empty.

    A signature that stands before the sentence stays with the rest, and so does everything from the
    first blank line, list or section on.
    """
    text = _RULE.sub("", docstring.strip()).strip()
    signature = _SIGNATURE.match(text)
    start = signature.end() if signature else 0
    while start < len(text) and text[start].isspace():
        start += 1
    end = start + _sentence_length(text[start:])
    query = collapse(text[start:end]).rstrip(".:!?。！？ ")
    return query, collapse(f"{text[:start]} {text[end:]}")


def _sentence_length(text: str) -> int:
    blank = re.search(r"\n\s*\n", text)
    section = _SECTION.search(text)
    limit = min([len(text)] + [match.start() for match in (blank, section) if match])
    for match in _END.finditer(text[:limit]):
        if not _ABBREVIATION.search(text[: match.start() + 1]):
            return match.end()
    return limit
