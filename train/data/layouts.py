"""How a delimited text file is written: its separator, quotes, header and encoding.

The suffix of a file's name says it (`SUFFIXES`), and `[data.layouts]` of the TOML for one file:

    [data.layouts."u.item"]
    columns = ["item_id", "title", "released"]
    separator = "|"
    encoding = "latin-1"
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from twinspire.protos.errors import DataError

QUOTE = '"'


@dataclass(frozen=True)
class Layout:
    """`[data.layouts."<file>"]`; the file is named as in `[data]`.

    Args:
        columns: names of the columns, in order, of a file without a header; if empty, the first row has them.
        separator: stands between two fields, such as "|" or "::". If empty, the suffix says it: "," in CSV, a
            tab in TSV, "::" in `.dat`.
        quoted: whether cells may be quoted as in RFC 4180; with a separator of several characters none are.
        encoding: of the file.
    """

    columns: tuple[str, ...] = field(default=(), kw_only=True)
    separator: str = field(default="", kw_only=True)
    quoted: bool = field(default=True, kw_only=True)
    encoding: Literal["utf-8", "latin-1", "utf-16"] = field(default="utf-8", kw_only=True)

    def __post_init__(self) -> None:
        if any(each in self.separator for each in "\r\n\0"):
            raise ValueError(f"separator: expected characters within a line, got {self.separator!r}")
        if self.separator == QUOTE:
            raise ValueError(f"separator: expected another character than the quote, got {QUOTE!r}")
        twice = [name for name in self.columns if not name or self.columns.count(name) > 1]
        if twice:
            raise ValueError(f"columns: expected distinct names, got {twice[0]!r}")


SUFFIXES = {".csv": ",", ".tsv": "\t", ".dat": "::"}


def layout_key(name: str) -> str:
    """The table of the TOML that describes a file; the file is named as in `[data]`."""
    return f"[data.layouts.{json.dumps(name, ensure_ascii=False)}]"


def format_of(path: Path, layout: Layout | None, name: str = "") -> Layout | None:
    """How a file is written, with its separator; None if neither its suffix nor a layout says so.

    Args:
        path: of the file.
        layout: of the file, if the TOML has one.
        name: of the file in the TOML, for error texts; empty if the TOML cannot describe this file.

    Raises:
        DataError: the file has no header, and no layout names its columns; or its suffix and the layout
            contradict each other.
    """
    suffix, found = path.suffix.lower(), layout or Layout()
    separator = found.separator or SUFFIXES.get(suffix, "")
    where = f"{layout_key(name or path.name)} of the TOML"
    if layout is not None:
        if suffix in (".jsonl", ".parquet"):
            raise DataError(f"{path}: a file that ends in {suffix} has no layout: remove {where}")
        if not separator:
            raise DataError(f"{path}: {where} must name the separator, because the suffix does not")
    if suffix == ".dat" and not found.columns:
        advice = f': {where} names its "columns"' if name else ", and nothing names its columns"
        raise DataError(f"{path}: a file that ends in .dat has no header{advice}")
    return replace(found, separator=separator) if separator else None
