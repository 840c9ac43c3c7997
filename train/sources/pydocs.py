"""Docstrings of the installed packages and of the standard library: which function does this?

An item is a public function, class or method with a docstring of more than one sentence. The first
sentence is the query; the item's text is the qualified name and the rest. Nothing is imported or
downloaded: what setup has just installed is the data.
"""

import hashlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from protos.features import normalise
from train.sources.docstrings import Module, scan
from train.sources.first_sentence import split_docstring
from train.sources.public_names import public_names
from train.sources.tables import Tables, collapse, holds, one_query_each, without

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


def roots() -> tuple[Path, ...]:
    """The folders of the standard library and of the installed packages."""
    paths = (sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    return tuple(dict.fromkeys(Path(path) for path in paths))


def identity() -> str:
    """What the docstrings come from: Python's version and that of every installed distribution."""
    installed = sorted(f"{each.name} {each.version}" for each in importlib.metadata.distributions())
    lines = [platform.python_version(), *dict.fromkeys(installed)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read(console: Console, folders: Sequence[Path] = ()) -> Tables:
    """Items and pairs from the Python files under `folders`, `roots()` if there are none."""
    dropped: Counter[str] = Counter()
    modules = _scan_all(list(_files(folders or roots())), console)
    for module in modules:
        if module.error:
            dropped[f"file that is not valid Python ({module.error})"] += 1
    changed: Counter[str] = Counter()
    items, pairs = one_query_each(_rows(modules, dropped, changed), _COLUMNS)
    origin = {"licence": LICENCE, "python": platform.python_version(), "files": len(modules)}
    display = ("name", "package", "summary")
    return Tables(items, pairs, display, dict(dropped), dict(changed), origin)


def _files(folders: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Python files and the dotted names of their modules; tests and vendored copies left out."""
    for root in folders:
        for folder, subfolders, names in os.walk(root):
            # A name that is no identifier cannot be imported: site-packages, *.dist-info.
            subfolders[:] = sorted(
                each for each in subfolders if each.isidentifier() and each not in _NOT_WALKED
            )
            for name in sorted(names):
                if name.endswith(".py") and not SKIPPED_FILES.fullmatch(name):
                    path = Path(folder, name)
                    parts = path.relative_to(root).with_suffix("").parts
                    yield path, ".".join(parts[:-1] if name == "__init__.py" else parts)


def _scan_all(files: Sequence[tuple[Path, str]], console: Console) -> list[Module]:
    """Every file scanned, by a pool of processes where that is worth starting one."""
    paths, names = [path for path, _ in files], [name for _, name in files]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("pydocs: reading docstrings", total=len(files))
        if len(files) < 500:
            return [scan(path, name) for path, name in files]
        # Threads of polars may be running, and forking beside threads can deadlock.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool:
            modules = []
            for module in pool.map(scan, paths, names, chunksize=64):
                modules.append(module)
                progress.advance(task)
            return modules


def _documented(modules: Sequence[Module], dropped: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """(qualified name, module, docstring) of everything public, shortest names first."""
    names = public_names(modules)
    found: dict[str, tuple[str, str]] = {}
    for module in modules:
        for path, docstring in module.docstrings.items():
            top, _, rest = path.partition(".")
            public = names.get((module.name, top))
            if public is None:
                dropped["private name"] += 1
                continue
            qualified = f"{public}.{rest}" if rest else public
            if found.setdefault(qualified, (module.name, docstring))[0] != module.name:
                dropped["name already taken by another module"] += 1
    for name in sorted(found, key=lambda name: (name.count("."), len(name), name)):
        yield name, *found[name]


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
        rest = without(body, query)
        text = _named(name, rest)
        if len(rest) < MIN_BODY_LENGTH or holds(text, query):
            dropped["text that says nothing, or still its query, once the query is cut out"] += 1
            continue
        changed["query cut out of the text that repeats it"] += rest != body
        full_text = _named(name, f"{query}. {body}")
        yield name, name, name.split(".")[0], query, text, full_text, query, module


def _named(name: str, text: str) -> str:
    """Name and text; a name in camel case is spelt out too, since encoders split at punctuation."""
    words = [word for part in name.split(".") if _CAMEL.search(part) for word in _CAMEL.split(part)]
    return collapse(" ".join([name, *words, text]))
