"""Package descriptions of the Debian archive: given what a package does, find the package.

    [data]
    kind = "debian"

The short description is the query, the long description is the item's text. Packages with the same
descriptions are one item. apt fetches its lists (about 17 MB) into the cache, so neither root nor a change to
the system is needed; apt-get is needed for cached lists, too, as it knows their names. `Translation-en` holds
the descriptions, and `Packages` refers to them by `Description-md5`.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import polars as pl
from rich.console import Console

from twinspire.protos.errors import DataError
from twinspire.protos.files.file_lock import exclusive_lock
from twinspire.train.data.source import (
    SourceConfig,
    SourceContext,
    Tables,
    collapse_spaces,
    contains_query,
    one_query_each,
    without_query,
)
from twinspire.train.data.table_files import identity_of

MIN_TEXT_LENGTH = 20
SOME_FAILED = "Some index files failed to download"  # a warning of apt-get, which then succeeds
LICENCE = "package descriptions of the Debian archive, each under the licence of its package"

_TARGET_FORMAT = "$(CREATED_BY)\t$(LABEL)\t$(COMPONENT)\t$(REPO_URI)\t$(LANGUAGE)\t$(FILENAME)"


@dataclass(frozen=True)
class DebianData(SourceConfig):
    """`[data]` of kind `debian`."""

    kind: Literal["debian"]

    def open(self, context: SourceContext) -> "AptLists":
        """The lists, fetched by apt unless they are in the cache."""
        return fetch_lists(context.cache / "apt", context.console, context.refresh)


@dataclass(frozen=True)
class AptLists:
    """Lists that apt has fetched.

    Args:
        packages: files with one stanza for each package.
        translations: files with the English descriptions.
        sha256: of the lists, taken while no other process fetches.
    """

    packages: tuple[Path, ...]
    translations: tuple[Path, ...]
    sha256: str

    def identity(self) -> str:
        """sha256 of the lists."""
        return self.sha256

    def read(self) -> Tables:
        """Items and pairs."""
        long_of: dict[str, tuple[str, str]] = {}
        for path in self.translations:
            with path.open(encoding="utf-8") as file:
                for stanza in stanzas(file):
                    short, _, long = stanza.get("Description-en", "").partition("\n")
                    long_of[stanza.get("Description-md5", "")] = collapse_spaces(short), _one_line(long)
        packages: dict[str, dict[str, str]] = {}
        dropped: Counter[str] = Counter()
        for path in self.packages:
            with path.open(encoding="utf-8") as file:
                for stanza in stanzas(file):
                    if packages.setdefault(stanza["Package"], stanza) is not stanza:
                        dropped["another version of a package already read"] += 1
        changed: Counter[str] = Counter()
        items, pairs = one_query_each(_rows(packages, long_of, dropped, changed), _COLUMNS)
        # In KiB (Debian policy, section 5.6.20).
        items = items.with_columns(pl.col("installed_size").cast(pl.Float64, strict=False))
        origin = {"licence": LICENCE, "apt_lists_sha256": self.sha256}
        display = ("name", "section")
        return Tables(items, pairs, display, dict(dropped), dict(changed), origin, unit="source families")


def fetch_lists(folder: Path, console: Console, refresh: bool = False) -> AptLists:
    """Apt's lists in `folder`; fetched if `refresh` is set, or if the last update did not fetch all of them.

    The file `complete` marks an update that did. One process at a time fetches; the others wait for it.

    Raises:
        DataError: apt is absent, fails, or has no source with English descriptions of the Debian archive.
    """
    if shutil.which("apt-get") is None:
        raise DataError(
            'data.kind = "debian" reads the Debian archive through apt, and there is no apt-get here: '
            'use kind = "pydocs", which needs no download, or kind = "files" with tables of your own'
        )
    with (
        console.status("apt: the package lists of the Debian archive"),
        exclusive_lock(folder / ".lock") as lock,
    ):
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "state/status").touch()
        complete = folder / "complete"
        found = _known(folder, lock) if complete.exists() and not refresh else None
        if found is None:
            complete.unlink(missing_ok=True)
            output = _apt(folder, lock, "update", "-q")
            found = _known(folder, lock)
            if SOME_FAILED in output:
                console.print("apt: some lists could not be fetched; the next read of the data tries again")
            else:
                complete.touch()
    if found is None:
        raise DataError(
            "apt fetched no package list with English descriptions of Debian's main archive; use "
            f'kind = "pydocs" or kind = "files" instead. apt said: {output.strip()[-500:]}'
        )
    return found


def _known(folder: Path, lock: IO[str]) -> AptLists | None:
    """The lists of Debian's main archive that are on disk; None without packages or without descriptions.

    Args:
        lock: held by this process. apt inherits it, so the lock is held until apt ends even if this process
            is killed.
    """
    needed: dict[str, list[Path]] = {"Packages": [], "Translations": []}
    for line in _apt(folder, lock, "indextargets", "--format", _TARGET_FORMAT).splitlines():
        kind, label, component, repository, language, filename = line.split("\t")
        official = label == "Debian" and component == "main" and not repository.startswith("file:")
        english = kind == "Packages" or language == "en"
        if official and english and kind in needed and Path(filename).is_file():
            needed[kind].append(Path(filename))
    packages, translations = (tuple(each) for each in needed.values())
    if not packages or not translations:
        return None
    return AptLists(packages, translations, identity_of((*packages, *translations)))


_FIELDS = ("name", "section", "priority", "installed_size")
_COLUMNS = ("item_id", *_FIELDS, "text", "full_text", "query", "group")


def _rows(
    packages: dict[str, dict[str, str]],
    long_of: dict[str, tuple[str, str]],
    dropped: Counter[str],
    changed: Counter[str],
) -> Iterator[tuple[str, ...]]:
    seen: set[tuple[str, str]] = set()
    for name in sorted(packages):
        stanza = packages[name]
        short, long = long_of.get(stanza.get("Description-md5", ""), ("", ""))
        if not short or not long:
            dropped["package without an English short and long description"] += 1
            continue
        if (short, long) in seen:
            dropped["description of a package already read"] += 1
            continue
        seen.add((short, long))
        text = without_query(long, short)
        if len(text) < MIN_TEXT_LENGTH or contains_query(text, short):
            dropped["text too short, or still with its query, after the query was cut out"] += 1
            continue
        changed["query cut out of the text that repeats it"] += text != long
        group = source_family(stanza.get("Source", name).split(" ")[0])
        fields = (stanza.get(each, "") for each in ("Section", "Priority", "Installed-Size"))
        yield name, name, *fields, text, f"{name} {short} {long}", short, group


def source_family(source: str) -> str:
    """Name of a source package without version numbers: descriptions of gcc-13 and gcc-14 are alike."""
    return re.sub(r"[\d.]+", "", source) or source


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The stanzas of a Debian control file (Debian policy, section 5.1) as field -> value."""
    stanza: dict[str, str] = {}
    name = ""
    for line in lines:
        line = line.rstrip("\n")
        if not line.strip():
            if stanza:
                yield stanza
            stanza = {}
        elif line[0] in " \t":
            stanza[name] += f"\n{line[1:]}"
        else:
            name, _, value = line.partition(":")
            stanza[name] = value.strip()
    if stanza:
        yield stanza


def _one_line(description: str) -> str:
    """The extended description on one line; a single dot is a blank line (policy, section 5.6.13)."""
    return collapse_spaces(re.sub(r"(?m)^\s*\.$", " ", description))


def _apt(folder: Path, lock: IO[str], *arguments: str) -> str:
    """Run apt-get with the system's sources, but lists and caches in `folder`; returns its output."""
    root = folder.resolve()
    options = {
        "Dir::State": root / "state",
        "Dir::State::status": root / "state/status",
        "Dir::Cache": root / "cache",
        "Acquire::Languages": "en",  # container images disable descriptions
        "Acquire::GzipIndexes": "false",
        "APT::Sandbox::User": "",
        "Debug::NoLocking": "1",
    }
    command = ["apt-get", *arguments]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            check=True,
            pass_fds=[lock.fileno()],
        )
    except subprocess.CalledProcessError as error:
        raise DataError(f"apt-get {arguments[0]} failed: {error.stderr.strip()[-500:]}") from None
    return done.stdout + done.stderr if arguments[0] == "update" else done.stdout
