"""Who changed which file of GCC: which file comes next? (Zimmermann et al. 2004 recommend files so.)

Users are developers, items are files, events are the files of an entry of `gcc/ChangeLog-*`, with its date.
Entries whose header has no ISO date, which are most of those before 2000, are left out. So are those of more
than `MOST` files: they are mechanical, such as new years in notices of copyright.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from tests.held_out.packages import Package

PACKAGE = Package(
    "gcc-14-source=14.2.0-19",
    "gcc-14-source_14.2.0-19_all.deb",
    "44e6872715a380fe08418ea42b58d3c90de7d5dfd9f525bbf4dacba415c2266a",
    ("./usr/src/gcc-14/gcc-*.tar.xz", "gcc-*/gcc/ChangeLog-*"),
)
MOST = 20
HEADER = re.compile(r"(\d{4}-\d\d-\d\d)\s+(\S.*?)\s*(?:<|$)")
FILES = re.compile(r"\t\* ([\w./+-]+(?:, [\w./+-]+)*)")
Entry = tuple[str, str, list[str]]


def make(texts: Iterable[tuple[str, str]], folder: Path) -> None:
    """Write `changes.csv` (developer, file, date) and `files.csv` (item_id, path, folder, suffix)."""
    entries = [each for _, text in sorted(texts) for each in reversed([*entries_of(text)])]
    entries.sort(key=lambda each: each[0])
    kept = [each for each in entries if len(each[2]) <= MOST]
    with (folder / "changes.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(("developer", "file", "date"))
        writer.writerows((who, path, day) for day, who, paths in kept for path in paths)
    with (folder / "files.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(("item_id", "path", "folder", "suffix"))
        for path in sorted({path for _, _, paths in kept for path in paths}):
            writer.writerow((path, path, str(Path(path).parent), Path(path).suffix))


def entries_of(text: str) -> Iterator[Entry]:
    """Date, developer and distinct files of each entry, in the order of the log, the newest first."""
    entry: Entry | None = None
    for line in [*text.splitlines(), "end"]:
        if found := FILES.match(line):
            if entry:
                entry[2].extend(each for each in found[1].split(", ") if each not in entry[2])
        elif line and not line[0].isspace():  # a header, or a line that no entry goes on after
            if entry and entry[2]:
                yield entry
            header = HEADER.match(line)
            entry = (header[1], header[2], []) if header and _is_date(header[1]) else None


def _is_date(text: str) -> bool:
    """Whether a day exists; the logs have some that do not."""
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False
