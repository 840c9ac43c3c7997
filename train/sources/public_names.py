"""Under which name a person would import what a module defines.

Much of the public face of a package is written in private modules: `numpy.linalg.eigh` lives in
`numpy/linalg/_linalg.py`. A package's `__init__.py`, or a module's `__all__`, says what it passes on; an
object's public name is the shortest of the names it is passed on under and of its own.
"""

from collections.abc import Iterable, Iterator, Mapping

from train.sources.docstrings import Module


def is_public(name: str) -> bool:
    """No part of the dotted name starts with an underscore."""
    return not any(part.startswith("_") for part in name.split("."))


def public_names(modules: Iterable[Module]) -> dict[tuple[str, str], str]:
    """(module, top-level name) -> public qualified name, for everything that has one."""
    by_name = {module.name: module for module in modules}
    names: dict[tuple[str, str], str] = {}
    for module in by_name.values():
        if not is_public(module.name):
            continue
        for name in module.documents:
            _keep_shorter(names, (module.name, name), f"{module.name}.{name}")
        for name, origin in _passed_on(module, by_name):
            _keep_shorter(names, origin, f"{module.name}.{name}")
    return names


def _keep_shorter(names: dict[tuple[str, str], str], origin: tuple[str, str], candidate: str) -> None:
    known = names.get(origin)
    if known is None or _length(candidate) < _length(known):
        names[origin] = candidate


def _length(name: str) -> tuple[int, int, str]:
    return name.count("."), len(name), name


def _passed_on(module: Module, by_name: Mapping[str, Module]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Names that a public module offers on behalf of a module of the same top-level package."""
    if not module.is_package and module.exported is None:
        return
    top = module.name.split(".")[0]
    offered = module.exported if module.exported is not None else _visible(module, by_name, set())
    for name in filter(is_public, offered):
        origin = _resolve(module.name, name, by_name, set())
        if origin and origin[0] != module.name and origin[0].split(".")[0] == top:
            yield name, origin


def _visible(module: Module, by_name: Mapping[str, Module], seen: set[str]) -> set[str]:
    """Names that `from module import *` gives."""
    if module.name in seen:
        return set()
    seen.add(module.name)
    if module.exported is not None:
        return set(module.exported)
    names = {*module.documents, *module.imports}
    for star in module.stars:
        if star in by_name:
            names |= _visible(by_name[star], by_name, seen)
    return {name for name in names if is_public(name)}


def _resolve(
    module_name: str, name: str, by_name: Mapping[str, Module], seen: set[tuple[str, str]]
) -> tuple[str, str] | None:
    """The module that documents `name`, followed through imports, and what it is called there."""
    module = by_name.get(module_name)
    if module is None or (module_name, name) in seen:
        return None
    seen.add((module_name, name))
    if name in module.documents:
        return module_name, name
    if name in module.imports:
        return _resolve(*module.imports[name], by_name, seen)
    for star in module.stars:
        found = _resolve(star, name, by_name, seen)
        if found:
            return found
    return None
