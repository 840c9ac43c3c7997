"""The Unicode version that a bundle's texts were read with, and the characters that another version changes.

NFKC, casefold and the classes of characters (`texts.py`, `protos/lexical.py`) come from the tables of the
running Python and not from the bundle. So a bundle records the version of these tables and the code points
that they assign. Once a code point is assigned, its normalisation and its case folding never change (Unicode
Character Encoding Stability Policies: Normalization Stability, Case Folding Stability). So two versions
normalise a text differently only where it holds a code point that one of them does not assign. The class of
a character, by which BM25 finds words, has rarely changed, but these policies do not cover it.
"""

import functools
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import BinaryIO

from twinspire.protos.documents import parse_json
from twinspire.protos.errors import BundleDamaged
from twinspire.protos.toml_config import parse, to_table

log = logging.getLogger(__name__)

RECORD = "unicode.json"
END = sys.maxunicode + 1
LARGEST_RECORD = 1 << 20  # bytes; that of Unicode 14 has 10 kB
SHOWN = 20  # ranges of characters in a warning
_VERSION = re.compile(r"[0-9.]{1,20}")


@dataclass(frozen=True)
class UnicodeRecord:
    """What `unicode.json` holds.

    Args:
        version: of the Unicode tables, such as `14.0.0`.
        edges: ascending code points: the first of a range of assigned ones, the first after it, and so on.
    """

    version: str
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        if not _VERSION.fullmatch(self.version):
            raise ValueError(f"version: expected digits and dots, got {self.version[:80]!r}")
        if len(self.edges) % 2 or any(last >= each for last, each in pairwise((-1, *self.edges, END + 1))):
            raise ValueError("edges: expected an even number of ascending code points")

    def differences(self, other: "UnicodeRecord") -> list[range]:
        """The code points that only one of two versions assigns, in order."""
        edges = iter(sorted({*self.edges} ^ {*other.edges}))
        return [range(first, after) for first, after in zip(edges, edges, strict=True)]


def record_of(version: str, category: Callable[[str], str]) -> UnicodeRecord:
    """The record of Unicode tables.

    Args:
        version: of the tables.
        category: character -> general category, `Cn` where it is not assigned; takes 0.2 s in all.
    """
    ranges = groupby(range(END), lambda code: category(chr(code)) == "Cn")
    return UnicodeRecord(version, tuple(next(codes) for _, codes in ranges))  # U+0000 is assigned


@functools.cache
def running() -> UnicodeRecord:
    """The record of this Python's tables."""
    return record_of(unicodedata.unidata_version, unicodedata.category)


def write_record(folder: Path) -> None:
    """Write the record of this Python's tables into a bundle's folder."""
    (folder / RECORD).write_text(json.dumps(to_table(running())))


def warn_of_other_version(file: BinaryIO, name: str) -> None:
    """Log a warning where this Python may read some characters differently from the one that made a bundle.

    A process logs the warning of a bundle once.

    Raises:
        BundleDamaged: the file is no record.
    """
    try:
        record: UnicodeRecord = parse(parse_json(file.read(LARGEST_RECORD)), UnicodeRecord)
    except ValueError as error:
        raise BundleDamaged(f"{name}: {RECORD}: {error}") from None
    if record.version != unicodedata.unidata_version and (found := record.differences(running())):
        _warn_once(name, record.version, tuple(found))


@functools.cache
def _warn_once(name: str, version: str, found: tuple[range, ...]) -> None:
    shown = [
        f"U+{each[0]:04X}" if len(each) == 1 else f"U+{each[0]:04X}-U+{each[-1]:04X}"
        for each in found[:SHOWN]
    ]
    more = f" and {len(found) - SHOWN} more ranges" if len(found) > SHOWN else ""
    log.warning(
        "%s: its towers were trained with Unicode %s, and this Python has Unicode %s. Characters that only "
        "one of the two assigns (%s): %s%s. Texts that hold them may be normalised, and split into words, "
        "differently from training; all others are normalised alike. Run a Python with Unicode %s, or train "
        "and export with this one",
        name,
        version,
        unicodedata.unidata_version,
        f"{sum(map(len, found)):,}",
        ", ".join(shown),
        more,
        version,
    )
