"""Docstrings of the installed packages and of the standard library: find the function that does this.

    [data]
    kind = "pydocs"

An item is a public function, class or method with a docstring of more than one sentence. The first sentence
is the query; the item's text is its qualified name and the rest of the docstring. Files are parsed, not
imported, and nothing is downloaded.
"""

import gc
import hashlib
import multiprocessing
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from twinspire.protos.inputs.texts import normalise
from twinspire.train.data.docstrings import Module, public_names, scan
from twinspire.train.data.source import (
    SourceConfig,
    SourceContext,
    Tables,
    collapse_spaces,
    contains_query,
    one_query_each,
    without_query,
)
from twinspire.train.progress import progress_bar

WORKERS = 2
MIN_QUERY_WORDS = 3
MIN_BODY_LENGTH = 20
TESTS = frozenset({"test", "tests"})
VENDORED = frozenset({"_vendor", "vendor", "_vendored", "vendored", "extern", "externals", "third_party"})
SKIPPED_FILES = re.compile(r"(test_.*|.*_tests?|conftest|.*_pb2(_grpc)?|__main__)\.py")
LICENCE = "docstrings of the installed packages, each under the licence of its package"

_NOT_WALKED = TESTS | VENDORED | {"__pycache__"}
_COLUMNS = ("item_id", "name", "package", "summary", "text", "full_text", "query", "group")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class PydocsData(SourceConfig):
    """`[data]` of kind `pydocs`."""

    kind: Literal["pydocs"]

    def open(self, context: SourceContext) -> "PydocsSource":
        """The installed packages."""
        return PydocsSource(context.console)


@dataclass(frozen=True)
class PydocsSource:
    """The installed packages and the standard library of this Python."""

    console: Console

    def identity(self) -> str:
        """sha256 of Python's version, and of module and content of every file that `read` reads."""
        digest = hashlib.sha256(platform.python_version().encode())
        with self.console.status("pydocs: hashing files"):
            for path, module in _files(roots()):
                try:
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                except OSError:  # `read` counts the file as one that it cannot parse
                    content = ""
                digest.update(os.fsencode(f"\n{module} {path.name} {content}"))
        return digest.hexdigest()

    def read(self) -> Tables:
        """Items and pairs."""
        return read(self.console, roots())


def roots() -> tuple[Path, ...]:
    """The folders of the standard library and of the installed packages."""
    paths = (sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    return tuple(dict.fromkeys(Path(path) for path in paths))


def read(console: Console, folders: Sequence[Path]) -> Tables:
    """Items and pairs from the Python files under `folders`."""
    dropped: Counter[str] = Counter()
    modules = _scan_all(list(_files(folders)), console)
    for module in modules:
        if module.error:
            dropped[f"file that is not valid Python ({module.error})"] += 1
    changed: Counter[str] = Counter()
    items, pairs = one_query_each(_rows(modules, dropped, changed), _COLUMNS)
    origin = {"licence": LICENCE, "python": platform.python_version(), "files": len(modules)}
    display = ("name", "package", "summary")
    return Tables(items, pairs, display, dict(dropped), dict(changed), origin, unit="modules")


def _files(folders: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Python files and the dotted names of their modules, without tests and vendored packages."""
    for root in folders:
        for folder, subfolders, names in os.walk(root):
            # Folders such as site-packages and *.dist-info are no packages: their names are no identifiers.
            subfolders[:] = sorted(
                each for each in subfolders if each.isidentifier() and each not in _NOT_WALKED
            )
            for name in sorted(names):
                if name.endswith(".py") and not SKIPPED_FILES.fullmatch(name):
                    path = Path(folder, name)
                    parts = path.relative_to(root).with_suffix("").parts
                    yield path, ".".join(parts[:-1] if name == "__init__.py" else parts)


def _scan_all(files: Sequence[tuple[Path, str]], console: Console) -> list[Module]:
    """Scan all files, in a pool of processes if there are many."""
    paths, names = [path for path, _ in files], [name for _, name in files]
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("pydocs: reading docstrings", total=len(files), note="")
        if len(files) < 500:
            return [scan(path, name) for path, name in files]
        # Polars may have started threads, and a fork of a process with threads can deadlock.
        spawn = multiprocessing.get_context("spawn")
        # Syntax trees have no cycles; to look for some takes a third of the time.
        with ProcessPoolExecutor(WORKERS, mp_context=spawn, initializer=gc.disable) as pool:
            modules = []
            for module in pool.map(scan, paths, names, chunksize=64):
                modules.append(module)
                progress.advance(task)
            return modules


def _documented(modules: Sequence[Module], dropped: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """(qualified name, module, docstring) of every public object, shortest names first."""
    names = public_names(modules)
    documented: dict[str, tuple[str, str]] = {}
    for module in modules:
        for path, docstring in module.docstrings.items():
            top, _, rest = path.partition(".")
            public = names.get((module.name, top))
            if public is None:
                dropped["private name"] += 1
                continue
            qualified = f"{public}.{rest}" if rest else public
            if documented.setdefault(qualified, (module.name, docstring))[0] != module.name:
                dropped["name already taken by another module"] += 1
    for name in sorted(documented, key=lambda name: (name.count("."), len(name), name)):
        yield name, *documented[name]


def _rows(
    modules: Sequence[Module], dropped: Counter[str], changed: Counter[str]
) -> Iterator[tuple[str, ...]]:
    seen: set[str] = set()
    for name, module, docstring in _documented(modules, dropped):
        query, body = split_docstring(docstring)
        if len(query.split()) < MIN_QUERY_WORDS:
            dropped[f"first sentence of fewer than {MIN_QUERY_WORDS} words"] += 1
            continue
        if len(body) < MIN_BODY_LENGTH:
            dropped["nothing beside the first sentence"] += 1
            continue
        docstring = normalise(f"{query}. {body}")
        if docstring in seen:
            dropped["docstring of an item already read"] += 1
            continue
        seen.add(docstring)
        rest = without_query(body, query)
        text = _named(name, rest)
        if len(rest) < MIN_BODY_LENGTH or contains_query(text, query):
            dropped["text too short, or still with its query, after the query was cut out"] += 1
            continue
        changed["query cut out of the text that repeats it"] += rest != body
        full_text = _named(name, f"{query}. {body}")
        yield name, name, name.split(".")[0], query, text, full_text, query, module


def _named(name: str, text: str) -> str:
    """Name and text; a camel-case name is also split into words, since encoders split at punctuation."""
    words = [word for part in name.split(".") if _CAMEL.search(part) for word in _CAMEL.split(part)]
    return collapse_spaces(" ".join([name, *words, text]))


_SIGNATURE = re.compile(r"\A[\w.]+\([^\n]*\)(\s*->[^\n]*)?(\n|\Z)")
_RULE = re.compile(r"(?m)^[ \t]*([-=~^*#+_.])\1{2,}[ \t]*$")
_SECTION = re.compile(
    r"(?m)^\s*(:\w+[^\n]*:|@\w+|>>>|\.\. |[-*] |\d+\. |"
    r"(Args|Arguments|Parameters|Returns?|Raises|Examples?|Notes?|Usage|Yields):?\s*$)"
)
_END = re.compile(r"[.!?](?=\s+[^a-z\s])|[.!?]\s*\Z|[。！？]")
_ABBREVIATION = re.compile(r"(?i)\b(e\.g|i\.e|etc|cf|vs|resp|approx|fig|eq|al|dr|mr)\.\Z")


def split_docstring(docstring: str) -> tuple[str, str]:
    """The first sentence without its full stop, and the rest; each on one line, each maybe empty.

    A signature before the sentence belongs to the rest. The first blank line, list or section ends the
    sentence.
    """
    text = _RULE.sub("", docstring.strip()).strip()
    signature = _SIGNATURE.match(text)
    start = signature.end() if signature else 0
    while start < len(text) and text[start].isspace():
        start += 1
    end = start + _sentence_length(text[start:])
    query = collapse_spaces(text[start:end]).rstrip(".:!?。！？ ")
    return query, collapse_spaces(f"{text[:start]} {text[end:]}")


def _sentence_length(text: str) -> int:
    blank = re.search(r"\n\s*\n", text)
    section = _SECTION.search(text)
    limit = min([len(text)] + [match.start() for match in (blank, section) if match])
    for match in _END.finditer(text[:limit]):
        if not _ABBREVIATION.search(text[: match.start() + 1]):
            return match.end()
    return limit
