"""Docstrings and public names of Python files, read with `ast`; nothing is imported.

`scan` returns a file's documented functions and classes, and the names that it re-exports. `public_names`
finds the names under which a user would import them. Much public code is defined in private modules, such as
`numpy.linalg.eigh` in `numpy/linalg/_linalg.py`. A package's `__init__.py`, or a module's `__all__`, lists
the names that it re-exports. An object's public name is the shortest of all its names.

This module imports only the standard library, because each worker process of the pool imports it.
"""

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Statement = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """The docstrings and imports of one Python file.

    Args:
        is_package: the file is an `__init__.py`.
        docstrings: path within the module (`Class.method`) -> docstring, in order of appearance.
        imports: name in this module -> (module, name in that module), of `from module import name as name`.
        star_imports: modules of `from module import *`.
        exported: the literal `__all__`; None without one.
        error: type of the error if the file could not be parsed; else empty.
    """

    name: str
    is_package: bool
    docstrings: dict[str, str] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    star_imports: tuple[str, ...] = ()
    exported: frozenset[str] | None = None
    error: str = ""

    @cached_property
    def documented(self) -> frozenset[str]:
        """Top-level names that have a docstring or a member with one."""
        return frozenset(path.partition(".")[0] for path in self.docstrings)


def scan(path: Path, name: str) -> Module:
    """The module `name` at `path`; if the file cannot be parsed, only the error is set."""
    is_package = path.name == "__init__.py"
    try:
        return _module(path, name, is_package)
    # The parser raises MemoryError or RecursionError for code that is nested too deeply.
    except (SyntaxError, ValueError, OSError, MemoryError, RecursionError) as error:
        return Module(name, is_package, error=type(error).__name__)


def _module(path: Path, name: str, is_package: bool) -> Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as invalid escapes in the parsed file
        tree = ast.parse(path.read_bytes(), filename=str(path))
    docstrings: dict[str, str] = {}
    imports: dict[str, tuple[str, str]] = {}
    star_imports: list[str] = []
    exported: set[str] | None = None
    for node in _statements(tree.body):
        if isinstance(node, Statement):
            _collect(node, "", docstrings)
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, name, is_package)
            for alias in node.names:
                if alias.name == "*":
                    star_imports.append(source)
                else:
                    imports[alias.asname or alias.name] = (source, alias.name)
        else:
            names = _exported(node)
            if names is not None:
                exported = (exported or set()) | names
    frozen = None if exported is None else frozenset(exported)
    return Module(name, is_package, docstrings, imports, tuple(star_imports), frozen)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import of the module, including those inside `if` and `try`."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [each for handler in node.handlers for each in handler.body]
            yield from _statements([*node.body, *node.orelse, *handlers])
        else:
            yield node


def _collect(node: Statement, prefix: str, found: dict[str, str]) -> None:
    """Add the docstrings of a public function or class, and of the class's public members, to `found`."""
    if node.name.startswith("_"):
        return
    path = prefix + node.name
    docstring = ast.get_docstring(node)
    if docstring:
        found.setdefault(path, docstring)
    if isinstance(node, ast.ClassDef):
        for member in _statements(node.body):
            if isinstance(member, Statement):
                _collect(member, f"{path}.", found)


def _source(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    """The absolute name of the module that `from ... import` reads."""
    if node.level == 0:
        return node.module or ""
    parts = name.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, node.module] if node.module else parts)


def _exported(node: ast.stmt) -> set[str] | None:
    """The strings of `__all__ = [...]` or `__all__ += [...]`; None for any other statement."""
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    else:
        return None
    named = any(isinstance(each, ast.Name) and each.id == "__all__" for each in targets)
    if not named or not isinstance(node.value, ast.List | ast.Tuple):
        return None
    elements = node.value.elts
    return {e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str)}


def is_public(name: str) -> bool:
    """Whether no part of the dotted name starts with an underscore."""
    return not any(part.startswith("_") for part in name.split("."))


def public_names(modules: Iterable[Module]) -> dict[tuple[str, str], str]:
    """(module, top-level name) -> public qualified name, for every object that has one."""
    by_name = {module.name: module for module in modules}
    names: dict[tuple[str, str], str] = {}
    for module in by_name.values():
        if not is_public(module.name):
            continue
        for name in module.documented:
            _keep_shorter(names, (module.name, name), f"{module.name}.{name}")
        for name, origin in _re_exported(module, by_name):
            _keep_shorter(names, origin, f"{module.name}.{name}")
    return names


def _keep_shorter(names: dict[tuple[str, str], str], origin: tuple[str, str], candidate: str) -> None:
    known = names.get(origin)
    if known is None or _length(candidate) < _length(known):
        names[origin] = candidate


def _length(name: str) -> tuple[int, int, str]:
    return name.count("."), len(name), name


def _re_exported(module: Module, by_name: Mapping[str, Module]) -> Iterator[tuple[str, tuple[str, str]]]:
    """(name, origin) of what a public module re-exports from other modules of its top-level package."""
    if not module.is_package and module.exported is None:
        return
    top = module.name.split(".")[0]
    offered = module.exported if module.exported is not None else _visible(module, by_name, set())
    for name in filter(is_public, offered):
        origin = _resolve(module.name, name, by_name, set())
        if origin and origin[0] != module.name and origin[0].split(".")[0] == top:
            yield name, origin


def _visible(module: Module, by_name: Mapping[str, Module], seen: set[str]) -> set[str]:
    """Names that `from module import *` would import."""
    if module.name in seen:
        return set()
    seen.add(module.name)
    if module.exported is not None:
        return set(module.exported)
    names = {*module.documented, *module.imports}
    for star in module.star_imports:
        if star in by_name:
            names |= _visible(by_name[star], by_name, seen)
    return {name for name in names if is_public(name)}


def _resolve(
    module_name: str, name: str, by_name: Mapping[str, Module], seen: set[tuple[str, str]]
) -> tuple[str, str] | None:
    """The module that defines `name`, found by following imports, and its name in that module."""
    module = by_name.get(module_name)
    if module is None or (module_name, name) in seen:
        return None
    seen.add((module_name, name))
    if name in module.documented:
        return module_name, name
    if name in module.imports:
        return _resolve(*module.imports[name], by_name, seen)
    for star in module.star_imports:
        found = _resolve(star, name, by_name, seen)
        if found:
            return found
    return None
