"""Descriptions of the packages of the Debian archive: which package does this?

An item is a distinct description. The short one is the query, the long one the item's text; packages
that share both are one item. apt fetches its lists (about 17 MB) into a folder of its own, so neither
root nor a change to the system is needed; `Packages` holds the short descriptions, `Translation-en`
the long ones, and `Description-md5` ties them together.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console

from protos import names
from protos.bundle import record, write_file
from protos.documents import parse_json
from protos.errors import DataError
from train.sources.tables import Tables, collapse, holds, one_query_each, without

LISTS = "lists.json"
MIN_TEXT_LENGTH = 20
LICENCE = "package descriptions of the Debian archive, each under the licence of its package"

_TARGET_FORMAT = "$(CREATED_BY)\t$(LABEL)\t$(COMPONENT)\t$(REPO_URI)\t$(LANGUAGE)\t$(FILENAME)"


@dataclass(frozen=True)
class AptLists:
    """The list files that apt has fetched.

    Args:
        packages: files with one stanza for each package.
        translations: files with the English descriptions.
        sha256: of all of them together; the identity of the data.
    """

    packages: tuple[Path, ...]
    translations: tuple[Path, ...]
    sha256: str

    def identity(self) -> str:
        """sha256 of the lists on disk.

        Raises:
            DataError: a list is missing.
        """
        try:
            return _identity((*self.packages, *self.translations))
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None


def lists(folder: Path, console: Console, refresh: bool = False) -> AptLists:
    """The lists in `folder`; fetched if they are not there and whole, or if `refresh` asks for it.

    One process at a time fetches them; another one waits for it.

    Raises:
        DataError: apt is absent, fails, or knows no English descriptions of the Debian archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with console.status("apt: the package lists of the Debian archive"), (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = None if refresh else _indexed(folder)
        if found is None:
            _fetch(folder, lock)
            found = _indexed(folder)
    if found is None:
        raise DataError(f"{folder}: the lists changed while they were read; run the command again")
    return found


def _indexed(folder: Path) -> AptLists | None:
    """The lists that the index names; None if they are not there, or not those that it was written for.

    A process that was killed while apt replaced the lists leaves the second case.
    """
    index = folder / LISTS
    if not index.is_file():
        return None
    try:
        table = parse_json(index.read_bytes())
        packages = tuple(folder / names.file_name(name) for name in table["packages"])
        translations = tuple(folder / names.file_name(name) for name in table["translations"])
        found = AptLists(packages, translations, table["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{index}: not the index of apt's lists; delete {folder}") from None
    paths = (*packages, *translations)
    return found if all(path.is_file() for path in paths) and _identity(paths) == found.sha256 else None


def _identity(paths: Iterable[Path]) -> str:
    """sha256 over the contents of files."""
    return hashlib.sha256(" ".join(record(path).sha256 for path in paths).encode()).hexdigest()


def read(found: AptLists) -> Tables:
    """Items and pairs from apt's lists."""
    long_of: dict[str, tuple[str, str]] = {}
    for path in found.translations:
        with path.open(encoding="utf-8") as file:
            for stanza in stanzas(file):
                short, _, long = stanza.get("Description-en", "").partition("\n")
                long_of[stanza.get("Description-md5", "")] = collapse(short), _long(long)
    packages: dict[str, dict[str, str]] = {}
    dropped: Counter[str] = Counter()
    for path in found.packages:
        with path.open(encoding="utf-8") as file:
            for stanza in stanzas(file):
                if packages.setdefault(stanza["Package"], stanza) is not stanza:
                    dropped["another version of a package already read"] += 1
    changed: Counter[str] = Counter()
    items, pairs = one_query_each(_rows(packages, long_of, dropped, changed), _COLUMNS)
    origin = {"licence": LICENCE, "apt_lists_sha256": found.sha256}
    return Tables(items, pairs, ("name", "section"), dict(dropped), dict(changed), origin)


_COLUMNS = ("item_id", "name", "section", "text", "full_text", "query", "group")


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
        text = without(long, short)
        if len(text) < MIN_TEXT_LENGTH or holds(text, short):
            dropped["text that says nothing, or still its query, once the query is cut out"] += 1
            continue
        changed["query cut out of the text that repeats it"] += text != long
        group = family(stanza.get("Source", name).split(" ")[0])
        yield name, name, stanza.get("Section", ""), text, f"{name} {short} {long}", short, group


def family(source: str) -> str:
    """The source package without its version: gcc-13 and gcc-14 say the same of what they hold."""
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


def _long(description: str) -> str:
    """The extended description as one line; a lone dot is a blank line (policy, section 5.6.13)."""
    return collapse(re.sub(r"(?m)^\s*\.$", " ", description))


def _fetch(folder: Path, lock: IO[str]) -> None:
    """Apt's lists into `folder`, and beside them the index that says which ones are wanted.

    Args:
        lock: held by this process. apt inherits it, so that it stays held as long as apt runs, even if this
            process is killed.
    """
    if shutil.which("apt-get") is None:
        raise DataError(
            'data.kind = "debian" reads the Debian archive through apt, and there is no apt-get here: '
            'use kind = "pydocs", which needs no download, or kind = "files" with tables of your own'
        )
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state/status").touch()
    output = _apt(folder, lock, "update", "-q")
    wanted: dict[str, list[Path]] = {"Packages": [], "Translations": []}
    for line in _apt(folder, lock, "indextargets", "--format", _TARGET_FORMAT).splitlines():
        kind, label, component, repository, language, filename = line.split("\t")
        official = label == "Debian" and component == "main" and not repository.startswith("file:")
        english = kind == "Packages" or language == "en"
        if official and english and kind in wanted and Path(filename).is_file():
            wanted[kind].append(Path(filename))
    if not wanted["Packages"] or not wanted["Translations"]:
        raise DataError(
            "apt fetched no package list with English descriptions of Debian's main archive; use "
            f'kind = "pydocs" or kind = "files" instead. apt said: {output.strip()[-500:]}'
        )
    files = wanted["Packages"], wanted["Translations"]
    packages, translations = ([str(p.relative_to(folder.resolve())) for p in each] for each in files)
    identity = _identity(path for each in files for path in each)
    table = {"packages": packages, "translations": translations, "sha256": identity}
    write_file(folder / LISTS, json.dumps(table, indent=2).encode())


def _apt(folder: Path, lock: IO[str], *arguments: str) -> str:
    """apt-get with the system's sources, but with lists and caches in `folder`; what it printed."""
    root = folder.resolve()
    options = {
        "Dir::State": root / "state",
        "Dir::State::status": root / "state/status",
        "Dir::Cache": root / "cache",
        "Acquire::Languages": "en",  # container images switch descriptions off
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
