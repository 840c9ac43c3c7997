"""Keys of cached results: a result is reused while everything that it depends on is unchanged.

A stage's key covers its settings, the identity of its inputs, and `code_fingerprint` of the stage's module:
its code and its libraries. The code is found by reading import statements, so there is no list to maintain,
and a file that moves is still covered.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twinspire.train.paths import ROOT

PROJECT = "twinspire"
PACKAGES = ("protos", "train", "export", "serving")  # of the project, each a folder of the repository

_NODES_WITH_NAMES = {ast.Import, ast.ImportFrom, ast.Constant}  # all that `_names` reads

_MODULE = re.compile(rf"{PROJECT}\.({'|'.join(PACKAGES)})(\.[A-Za-z_]\w*)+(\.\*)?")


def fingerprint(*parts: Any) -> str:
    """sha256 over dataclasses, and over other values that JSON can represent."""
    plain = [
        dataclasses.asdict(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else part
        for part in parts
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def code_fingerprint(*entries: str) -> str:
    """sha256 over the code and the libraries that modules of this project depend on.

    It covers path and content of every source file of this project that the modules import, directly or
    not, the versions of the libraries that these files import, and the version of Python. Libraries that
    only other libraries import are not covered.

    Args:
        entries: full names of the modules; a caller passes its own `__name__`.
    """
    files, libraries = _reachable(ROOT, entries)
    return fingerprint(_hashes(files), _versions(libraries), platform.python_version())


def source_fingerprint(*entries: str) -> str:
    """sha256 over the code alone that modules depend on, without the versions of libraries and of Python."""
    return fingerprint(_hashes(_reachable(ROOT, entries)[0]))


def _hashes(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def _reachable(root: Path, entries: tuple[str, ...]) -> tuple[dict[str, Path], set[str]]:
    """The source files that modules import, by path below `root`, and the import names of the libraries.

    Args:
        entries: full names of modules; `package.*` stands for what `pkgutil.iter_modules` finds in a package.
    """
    files: dict[str, Path] = {}
    libraries: set[str] = set()
    seen: set[str] = set()
    pending = list(entries)
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.endswith(".*"):
            pending.extend(_modules_of(root, name.removesuffix(".*")))
            continue
        top, _, _ = name.partition(".")
        if top != PROJECT:
            libraries.add(top)
            continue
        if "." in name:
            pending.append(name.rpartition(".")[0])  # importing a module runs its packages first
        path = _source(root, name)
        if path is not None:
            files[path.relative_to(root).as_posix()] = path
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            if path.suffix == ".py":
                pending.extend(_imported(path.read_bytes(), package))
    return files, libraries - sys.stdlib_module_names


def _modules_of(root: Path, package: str) -> Iterator[str]:
    """Full names of a package, of its modules and of the packages in it."""
    yield package
    folder = root.joinpath(*package.split(".")[1:])
    names = [path.stem for path in folder.glob("*.py")] + [
        path.parent.name for path in folder.glob("*/__init__.py")
    ]
    yield from (f"{package}.{name}" for name in names)


def _source(root: Path, name: str) -> Path | None:
    """The file of a module; None if the name is not that of a module, but of something in a module.

    That of a compiled module `_name` is `name.c`.
    """
    base = root.joinpath(*name.split(".")[1:])
    files = [base / "__init__.py", base.with_suffix(".py")]
    if base.name.startswith("_"):
        files.append(base.with_name(f"{base.name.removeprefix('_')}.c"))
    return next((path for path in files if path.is_file()), None)


@functools.cache
def _imported(source: bytes, package: str) -> tuple[str, ...]:
    """Full names of the modules that a source file imports anywhere, and of what it imports from them.

    A string that is the name of a module counts: `importlib` or `python -m` may use it. So does
    `package.*`, with which `train.registry` imports all modules of a package.
    """
    names: list[str] = []
    pending: list[Any] = [ast.parse(source)]
    # The list grows while it is read. Most of a tree are names of variables and numbers of lines, without
    # children; passing over them takes less than half of the time of `ast.walk`.
    for node in pending:
        kind = type(node)
        if kind in _NODES_WITH_NAMES:
            names.extend(_names(node, package))
        elif kind is not ast.Name and isinstance(node, ast.AST):
            for part in vars(node).values():
                if type(part) is list:
                    pending += part
                elif type(part) is not int:
                    pending.append(part)
    return tuple(names)


def _names(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        # One dot names the package of the file, each further dot the package above it.
        above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE.fullmatch(node.value):
        yield node.value
        yield f"{node.value}.__main__"


def _versions(libraries: set[str]) -> Mapping[str, str]:
    """Distribution -> version, of all distributions that provide these import names."""
    return {each: _version(each) for name in libraries for each in _providers().get(name, ())}


@functools.cache
def _providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)
