"""What one Python file says about itself, read with `ast` and never imported.

`scan` gives a file's documented functions and classes and the names it passes on from other modules. It
imports nothing heavy, because every worker process of the pool starts by importing this module.
"""

import ast
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Statement = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """A file, as far as its docstrings and its imports go.

    Args:
        name: dotted path.
        is_package: the file is an `__init__.py`.
        docstrings: path within the module (`Class.method`) -> docstring, in order of appearance.
        imports: name here -> (module, name there), of `from module import name as name`.
        stars: modules of `from module import *`.
        exported: the literal `__all__`; None without one.
        error: why the file could not be read; empty if it could.
    """

    name: str
    is_package: bool
    docstrings: dict[str, str] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: tuple[str, ...] = ()
    exported: frozenset[str] | None = None
    error: str = ""

    @cached_property
    def documents(self) -> frozenset[str]:
        """Top-level names that have a docstring or a member with one."""
        return frozenset(path.partition(".")[0] for path in self.docstrings)


def scan(path: Path, name: str) -> Module:
    """The module `name` at `path`; of a file that cannot be parsed only its error."""
    is_package = path.name == "__init__.py"
    try:
        return _module(path, name, is_package)
    # Of what is nested too deep, the parser says MemoryError or RecursionError, depending on what it is.
    except (SyntaxError, ValueError, OSError, MemoryError, RecursionError) as error:
        return Module(name, is_package, error=type(error).__name__)


def _module(path: Path, name: str, is_package: bool) -> Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        tree = ast.parse(path.read_bytes(), filename=str(path))
    docstrings: dict[str, str] = {}
    imports: dict[str, tuple[str, str]] = {}
    stars: list[str] = []
    exported: set[str] | None = None
    for node in _statements(tree.body):
        if isinstance(node, Statement):
            _collect(node, "", docstrings)
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, name, is_package)
            for alias in node.names:
                if alias.name == "*":
                    stars.append(source)
                else:
                    imports[alias.asname or alias.name] = (source, alias.name)
        else:
            names = _exported(node)
            if names is not None:
                exported = (exported or set()) | names
    frozen = None if exported is None else frozenset(exported)
    return Module(name, is_package, docstrings, imports, tuple(stars), frozen)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, those under `if` and `try` included."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [each for handler in node.handlers for each in handler.body]
            yield from _statements([*node.body, *node.orelse, *handlers])
        else:
            yield node


def _collect(node: Statement, prefix: str, found: dict[str, str]) -> None:
    """The docstrings of a public function or class and of the class's public members."""
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
    """The strings of `__all__ = [...]` or `__all__ += [...]`; None if the statement is no such thing."""
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
