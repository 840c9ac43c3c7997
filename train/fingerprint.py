"""Keys of cached results: a result is reused while everything that it depends on is unchanged.

A stage's key covers its settings, the identity of its inputs, and `code_fingerprint`: all code of the stage
and of those that it may import, and the libraries of this code. After an edit anywhere in `train`, data sets
and runs are made anew.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from typing import Any

from twinspire.train.paths import ROOT

# Stage -> folders of its code.
STAGES = {"train": ("protos", "train"), "export": ("protos", "train", "export")}
_IMPORT = re.compile(r"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)


def fingerprint(*parts: Any) -> str:
    """sha256 over dataclasses, and over other values that JSON can represent."""
    plain = [
        dataclasses.asdict(part) if dataclasses.is_dataclass(part) and not isinstance(part, type) else part
        for part in parts
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def code_fingerprint(module: str) -> str:
    """sha256 over the code and the libraries of a stage.

    It covers path and content of every source file of the stage and of those that it imports, the versions of
    the libraries that these files import, and the version of Python. Libraries that only other libraries
    import are not covered.

    Args:
        module: full name of a module of the stage; a caller passes its own `__name__`.
    """
    sources = _sources(module)
    names = {name for content in sources.values() for name in _IMPORT.findall(content)}
    versions = {each: _version(each) for name in names for each in _providers().get(name, ())}
    return fingerprint(_hashes(sources), versions, platform.python_version())


def _sources(module: str) -> dict[str, str]:
    """Path -> content of the source files of a module's stage."""
    folders = [ROOT / name for name in STAGES[module.split(".")[1]]]
    paths = [path for folder in folders for kind in ("*.py", "*.c") for path in folder.rglob(kind)]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def _hashes(sources: Mapping[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(content.encode()).hexdigest() for name, content in sources.items()}


@functools.cache
def _providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)
